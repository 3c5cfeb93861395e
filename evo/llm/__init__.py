"""A model as writer of mutations and crossovers, beside training.

desk       what waits for the model, what it writes now, what is ready
writer     one proposal: prompt, reply, program; never raises for what a model or an endpoint does
talk       one conversation about it, with a prompt that fits what the server holds; room.py: what that is
endpoint   any endpoint that speaks OpenAI's chat completions; the only home of `openai`;
           replies.py: what its answers say; refusals.py: what it says of requests that are too long
start      from settings to a model at its desk
brief      what of the run a model is told; prompts.py: as text
"""
