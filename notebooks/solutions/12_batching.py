"""Solutions of notebook 12, each the whole of its exercise cell. Look here after the third hint."""

# %% 12.empty_seats
def empty_seats(steps, seats, arrivals):       # -> (wasted, spare)
    seen, wasted, spare = set(), 0, 0
    for at, ids in enumerate(steps):
        seen |= set(ids)
        free = seats - len(ids)
        there = sum(arrived <= at and name not in seen for name, arrived in arrivals.items())
        wasted += min(free, there)
        spare += free - min(free, there)
    return wasted, spare

check("12.empty_seats", empty_seats)

# %% 12.bus_steps
def bus_steps(trace, seats):                   # -> int
    now = 0
    while trace:
        now = max(now, trace[0][0])            # back at the stop, and somebody is there
        board = [length for arrival, length in trace[:seats] if arrival <= now]
        now += max(board)
        trace = trace[len(board):]
    return now

check("12.bus_steps", bus_steps)

# %% 12.least_steps
def least_steps(trace, seats):                 # trace: list of (arrival, length) -> int
    alone = max(arrival + length for arrival, length in trace)
    crowd = max(a + -(-sum(n for b, n in trace if b >= a) // seats) for a, _ in trace)
    return max(alone, crowd)

check("12.least_steps", least_steps)

# %% 12.first_token
def first_token(records, step_seconds, arrivals):        # -> {id: seconds}
    begin = [0.0]                              # begin[i + 1] is also the end of step i
    for seconds in step_seconds:
        begin.append(begin[-1] + seconds)
    found = {}
    for at, record in enumerate(records):
        for made in record.made:
            found.setdefault(made.request_id, begin[at + 1] - begin[arrivals[made.request_id]])
    return found

check("12.first_token", first_token)

# %% 12.seats_needed
def seats_needed(rate, tokens, step_seconds, most):      # -> int or None
    for rows in range(1, most + 1):
        if rows / step_seconds(rows) >= rate * tokens:
            return rows
    return None

check("12.seats_needed", seats_needed)

# %% 12.admit
def admit(waiting, running, seats, room):      # -> list of ids
    got_on, riders, reserved = [], len(running), sum(tokens for _, tokens in running)
    for name, tokens in waiting:
        if riders == seats or reserved + tokens > room:
            break                              # nobody overtakes
        got_on.append(name)
        riders, reserved = riders + 1, reserved + tokens
    return got_on

check("12.admit", admit)
