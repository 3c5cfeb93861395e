# -*- coding: utf-8 -*-
'''A Llama in another hand: tabs, single quotes, semicolons, comments everywhere – größer, 小さい, naïve.'''
from __future__ import annotations
import math, functools; import contextlib as ctx      # two statements, one line
import prepare, torch
from torch import nn
import torch.nn.functional as F
from   typing   import NamedTuple


#: what may be chosen ————————————————————————————————————————————————
class Hp(NamedTuple):
	dim        : int   = 128	# Breite des Modells, power of two
	n_layers   : int   = 2
	n_heads    : int   = 4
	n_kv_heads : int   = 2		# grouped-query attention (arXiv 2305.13245)
	ffn_mult   : float = 8 / 3		# hidden = ffn_mult · dim, rounded up
	multiple   : int   = 32		# … to a multiple of this
	theta      : float = 5e4		# θ, rotary base
	eps        : float = 1e-5
	vocab      : int   = 1_024		# one of 1024, 2048, 4096
	rows       : int   = 0x8		# rows per step
	lr         : float = 4e-3 ;	wd : float = .1	# range 1e-5..1 log
	betas      : tuple = (.9, .95)
	clip       : float = 1.
	schedule   : str   = 'wsd'		# one of wsd, cosine, linear
	warm       : float = 5e-2 ; cool : float = .4

hp = Hp ( )


def once(f):
	'''Decorator: remembers the result for equal arguments.'''
	return functools.lru_cache(maxsize = 16)(f)

@once
def angles(head_dim, length):
	"""cos and sin, each (length, head_dim / 2)."""
	freqs = hp.theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)
	grid  = torch.outer(torch.arange(length).float(), freqs)
	return grid.cos(), grid.sin()		# (T, D/2) × 2


class RMSNorm(nn.Module):
	def __init__(self, dim : int, eps : float = hp.eps):
		super().__init__() ; self.eps = eps
		self.weight = nn.Parameter(torch.ones(dim))	# γ

	def forward(self, x):
		rms = torch.rsqrt(x.pow(2).mean(-1, keepdim = True) + self.eps)
		return x * rms * self.weight


class Attention(nn.Module):
	def __init__(self):
		super().__init__()
		self.hd = hp.dim // hp.n_heads
		self.sizes = (hp.n_heads * self.hd, hp.n_kv_heads * self.hd,
		              hp.n_kv_heads * self.hd)	# q, k, v
		self.wqkv = nn.Linear(hp.dim, sum(self.sizes), bias = False)
		self.wo   = nn.Linear(hp.dim, hp.dim, bias = False)

	def forward(self, x, rot):
		B, T, _ = x.shape
		q, k, v = self.wqkv(x).split(self.sizes, dim = -1)		# fused, then apart
		q, k, v = [ t.view(B, T, -1, self.hd).transpose(1, 2) for t in ( q, k, v ) ]
		q, k = self.rotate(q, *rot), self.rotate(k, *rot)
		# repeat the keys and values: each serves n_heads / n_kv_heads queries
		if (rep := hp.n_heads // hp.n_kv_heads) > 1:
			k, v = k.repeat_interleave(rep, 1), v.repeat_interleave(rep, 1)
		y = F.scaled_dot_product_attention(q, k, v, is_causal = True)
		return self.wo(y.transpose(1, 2).reshape(B, T, -1))

	@staticmethod
	def rotate(x, cos, sin):
		a, b = x[..., ::2], x[..., 1::2]		# neighbours turn together
		return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class SwiGLU(nn.Module):
	'''down(silu(gate(x)) · up(x)), arXiv 2002.05202'''
	def __init__(self):
		super().__init__()
		hidden = hp.multiple * math.ceil(hp.ffn_mult * hp.dim / hp.multiple)
		self.gate_up = nn.Linear(hp.dim, 2 * hidden, bias = False)
		self.down    = nn.Linear(hidden, hp.dim, bias = False)

	def forward(self, x):
		gate, up = self.gate_up(x).chunk(2, -1)
		return self.down(F.silu(gate) * up)


class Layer(nn.Module):
	def __init__(self, i : int):
		super().__init__()
		self.n1, self.att, self.n2, self.ffn = RMSNorm(hp.dim), Attention(), RMSNorm(hp.dim), SwiGLU()
		self.i = i

	def forward(self, x, rot):
		x = x + self.att(self.n1(x), rot) ; x = x + self.ffn(self.n2(x))
		return x


class Llama(nn.Module):

	def __init__(self):
		super().__init__()
		self.emb  = nn.Embedding(hp.vocab, hp.dim)
		self.body = nn.ModuleList(Layer(i) for i in range(hp.n_layers))
		self.norm = RMSNorm(hp.dim)
		self.out  = nn.Linear(hp.dim, hp.vocab, bias = False)

		for name, p in self.named_parameters():
			match name.rsplit('.', 2):
				case [*_, 'wo' | 'down', 'weight']:
					nn.init.trunc_normal_(p, std = .02 / (2 * hp.n_layers) ** .5)	# residual branches start small
				case [*_, 'emb', 'weight']:
					nn.init.normal_(p, std = .02)
				case _ if p.dim() == 2:
					nn.init.trunc_normal_(p, 0., .02 , a = -.06 , b = .06)
				case _:
					pass	# norms stay at one

	def forward(self, tokens):
		x = self.emb(tokens)
		cos, sin = angles(hp.dim // hp.n_heads, tokens.shape[1])
		rot = cos.to(x), sin.to(x)
		for layer in self.body : x = layer(x, rot)
		return self.out(self.norm(x)).float()


def factor(t : float) -> float:
	'''Share of the full rate at share t of the budget.'''
	if t < hp.warm: return (t + 1e-3) / hp.warm
	match hp.schedule:
		case 'wsd':			# warm up, stay, decay (arXiv 2404.06395)
			return 1. if t < 1 - hp.cool else \
				max(1e-2, (1 - t) / hp.cool) ** 1.5
		case 'cosine':
			return .1 + .9 * .5 * (1 + math.cos(math.pi * t))
		case other:
			return 1 - t


def groups(model):
	'''Matrices decay; the embedding learns faster.'''
	emb   = { 'params' : [model.emb.weight], 'lr' : 5 * hp.lr, 'weight_decay' : 0. }
	mats  = { 'params' : [p for p in model.body.parameters() if p.dim() == 2] + [model.out.weight], 'lr' : hp.lr , "weight_decay" : hp.wd }
	norms = { 'params' : [p for p in model.parameters() if p.dim() < 2], 'lr': 2e-3, 'weight_decay' : .0 }
	return [ { **g , 'base' : g['lr'] } for g in (emb, mats, norms) ]


def build_model():	return Llama().to(prepare.device())


def main():
	torch.manual_seed(prepare.seed())
	model = build_model()
	opt   = torch.optim.AdamW(groups(model), betas = hp.betas, eps = 1e-8)
	seen  = 0 ; ema = None
	for n, (x, y) in enumerate(prepare.batches(hp.rows, hp.vocab)):
		logits = model(x)
		ce   = F.cross_entropy(logits.view(-1, hp.vocab), y.reshape(-1))
		# z-loss (PaLM, arXiv 2204.02311): keeps log Z near 0
		loss = ce + 1e-4 * logits.logsumexp(-1).square().mean()
		loss.backward()
		if (size := nn.utils.clip_grad_norm_(model.parameters(), hp.clip)) != size:
			raise FloatingPointError(f'gradient norm {size} at step {n}')
		for g in opt.param_groups : g['lr'] = g['base'] * factor(prepare.progress())
		opt.step() ; opt.zero_grad(set_to_none = True)
		seen += x.numel()
		ema = ce.item() if ema is None else .98 * ema + .02 * ce.item()
		if not n % 64:
			print(f'{n:5d} | {ema:.3f} nats | {seen / 1e3:.0f}k tokens | ×{factor(prepare.progress()):.2f}')
		prepare.report(ce)
	prepare.save(model)

if __name__ == '__main__':
	with ctx.suppress(KeyboardInterrupt) :
		main()
# Ende
