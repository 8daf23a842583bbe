"""OVER THE NETWORK: one model, many connections; and one model over several ranks.

The life of a request:

1. uvicorn reads it, set up by server.py, which also knows how to end: the first signal drains, the second
   ends at once. The command is in command.py.
2. The gate (gate.py) looks at its key, its id and its size before anything of it is parsed.
3. pydantic checks its form (protocol.py); what is wrong is told with field, value, limit and remedy
   (complaint.py, refusal.py).
4. The reception (reception.py) asks whether this model is served, whether there is a place in the queue
   (admission.py), and how many tokens the prompt has.
5. The engine thread (engine_thread.py) finds it in its letter box between two steps, and adds it to the
   engine. The client's side holds a ticket (ticket.py).
6. After each step the thread tells the event loop, with one call, which answers have grown.
7. The reply (reply.py) writes them as one JSON object or as events (wire.py, logprobs.py), and drops the
   ticket when the client hangs up or the time is over.

The routes are in app.py. A model that is spread over ranks answers the same way on rank 0 (ranks.py), which
notices who is gone (pulse.py).
"""
