"""OURS AGAINST OTHERS: each comparison in one run on one machine, with the peer's version and settings named.

Reading order: row (one line, for all), trace (who asks for what, and when), load (put to a server, and
timed), peers/; then the benchmarks, each of which stands alone: decode (one request), throughput (all at
once), latency (by and by), steps (where a step's time goes), first_token (a fresh process), gpu, kernel_row
and kernels, launches; command.

Load on a server known by its address: events (tokens, as they are read), http (one request), open_loop (all
of them), arrivals, measured (a run's figures), serve (runs, and the knee), serve_options, serve_plot;
own_server starts ours, and overhead compares it with its engine.
"""
