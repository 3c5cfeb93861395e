"""A model as writer of mutations and crossovers, beside training.

desk       what waits for the model, what it writes now, what is ready
writer     one proposal: prompt, reply, program; never raises for what a model or an endpoint does
endpoint   any endpoint that speaks OpenAI's chat completions; the only home of `openai`;
           replies.py: what its answers say
start      from settings to a model at its desk
brief      what of the run a model is told; prompts.py: as text
"""
