"""Known-wrong answers of notebook 12: each section names words of the message it must get."""

# %% setup
from aiinfra.lab import check

# %% 12.empty_seats | One person at the stop wastes one seat
def empty_seats(steps, seats, arrivals):        # every empty seat counts as soon as somebody waits
    seen, wasted, spare = set(), 0, 0
    for at, ids in enumerate(steps):
        seen |= set(ids)
        if any(a <= at and name not in seen for name, a in arrivals.items()):
            wasted += seats - len(ids)
        else:
            spare += seats - len(ids)
    return wasted, spare

check("12.empty_seats", empty_seats)

# %% 12.empty_seats | could have had a seat in step 3
def empty_seats(steps, seats, arrivals):        # off by one: arrives, and waits from the next step on
    seen, wasted, spare = set(), 0, 0
    for at, ids in enumerate(steps):
        seen |= set(ids)
        free, there = seats - len(ids), sum(a < at and name not in seen for name, a in arrivals.items())
        wasted, spare = wasted + min(free, there), spare + free - min(free, there)
    return wasted, spare

check("12.empty_seats", empty_seats)

# %% 12.empty_seats | some have been, and are done
def empty_seats(steps, seats, arrivals):        # who does not ride waits
    wasted = spare = 0
    for at, ids in enumerate(steps):
        free, there = seats - len(ids), sum(a <= at and name not in ids for name, a in arrivals.items())
        wasted, spare = wasted + min(free, there), spare + free - min(free, there)
    return wasted, spare

check("12.empty_seats", empty_seats)

# %% 12.empty_seats | in the other order
def empty_seats(steps, seats, arrivals):
    seen, wasted, spare = set(), 0, 0
    for at, ids in enumerate(steps):
        seen |= set(ids)
        free, there = seats - len(ids), sum(a <= at and name not in seen for name, a in arrivals.items())
        wasted, spare = wasted + min(free, there), spare + free - min(free, there)
    return spare, wasted

check("12.empty_seats", empty_seats)

# %% 12.empty_seats | two numbers are wanted
def empty_seats(steps, seats, arrivals):
    return sum(seats - len(ids) for ids in steps)

check("12.empty_seats", empty_seats)

# %% 12.empty_seats | were empty
def empty_seats(steps, seats, arrivals):        # steps without anybody left out
    total = sum(seats - len(ids) for ids in steps if ids)
    return 0, total + 1

check("12.empty_seats", empty_seats)

# %% 12.empty_seats | at the stop nobody
def empty_seats(steps, seats, arrivals):        # who gets on in this step is counted as waiting, too
    ran, wasted, spare = set(), 0, 0
    for at, ids in enumerate(steps):
        free, there = seats - len(ids), sum(a <= at and name not in ran for name, a in arrivals.items())
        wasted, spare = wasted + min(free, there), spare + free - min(free, there)
        ran |= set(ids)
    return wasted, spare

check("12.empty_seats", empty_seats)

# %% 12.empty_seats | at the stop 1
def empty_seats(steps, seats, arrivals):        # arrived before this step, and had not run before it
    ran, wasted, spare = set(), 0, 0
    for at, ids in enumerate(steps):
        free, there = seats - len(ids), sum(a < at and name not in ran for name, a in arrivals.items())
        wasted, spare = wasted + min(free, there), spare + free - min(free, there)
        ran |= set(ids)
    return wasted, spare

check("12.empty_seats", empty_seats)

# %% 12.bus_steps | had not arrived when it left
def bus_steps(trace, seats):                    # always the next four
    now = 0
    for i in range(0, len(trace), seats):
        now = max(now, trace[i][0]) + max(n for _, n in trace[i:i + seats])
    return now

check("12.bus_steps", bus_steps)

# %% 12.bus_steps | waits until it is full
def bus_steps(trace, seats):
    now = 0
    for i in range(0, len(trace), seats):
        ride = trace[i:i + seats]
        now = max(now, ride[-1][0]) + max(n for _, n in ride)
    return now

check("12.bus_steps", bus_steps)

# %% 12.bus_steps | time passes, too
def bus_steps(trace, seats):                    # as if all were there from the start
    return sum(max(n for _, n in trace[i:i + seats]) for i in range(0, len(trace), seats))

check("12.bus_steps", bus_steps)

# %% 12.bus_steps | the shared ride needs
def bus_steps(trace, seats):                    # continuous: a seat is free again when its own rider is done
    free = [0] * seats
    for arrival, length in trace:
        free.sort()
        free[0] = max(free[0], arrival) + length
    return max(free)

check("12.bus_steps", bus_steps)

# %% 12.bus_steps | a number is wanted
def bus_steps(trace, seats):
    print(len(trace))

check("12.bus_steps", bus_steps)

# %% 12.least_steps | look at every arrival time
def least_steps(trace, seats):                  # all tokens, from step 0
    return max(max(a + n for a, n in trace), -(-sum(n for _, n in trace) // seats))

check("12.least_steps", least_steps)

# %% 12.least_steps | there is a crowd, too
def least_steps(trace, seats):
    return max(a + n for a, n in trace)

check("12.least_steps", least_steps)

# %% 12.least_steps | round up
def least_steps(trace, seats):
    return sum(n for _, n in trace) / seats

check("12.least_steps", least_steps)

# %% 12.least_steps | the shared ride needs
def least_steps(trace, seats):                  # no bound: the arrivals are added to all of the work
    return max(a for a, _ in trace) + -(-sum(n for _, n in trace) // seats)

check("12.least_steps", least_steps)

# %% 12.first_token | LAST token
def first_token(records, step_seconds, arrivals):
    end, found = 0.0, {}
    for record, seconds in zip(records, step_seconds):
        end += seconds
        for made in record.made:
            found[made.request_id] = end - sum(step_seconds[:arrivals[made.request_id]])
    return found

check("12.first_token", first_token)

# %% 12.first_token | look in `made`
def first_token(records, step_seconds, arrivals):        # takes the first time that it ran
    end, found = 0.0, {}
    for record, seconds in zip(records, step_seconds):
        end += seconds
        for name, _, _ in record.ran:
            found.setdefault(name, end - sum(step_seconds[:arrivals[name]]))
    return found

check("12.first_token", first_token)

# %% 12.first_token | when the step has ended
def first_token(records, step_seconds, arrivals):
    begin, found = 0.0, {}
    for record, seconds in zip(records, step_seconds):
        for made in record.made:
            found.setdefault(made.request_id, begin - sum(step_seconds[:arrivals[made.request_id]]))
        begin += seconds
    return found

check("12.first_token", first_token)

# %% 12.first_token | since its arrival
def first_token(records, step_seconds, arrivals):        # counts from the admission
    end, came, found = 0.0, {}, {}
    for record, seconds in zip(records, step_seconds):
        for name in record.admitted:
            came[name] = end
        end += seconds
        for made in record.made:
            found.setdefault(made.request_id, end - came[made.request_id])
    return found

check("12.first_token", first_token)

# %% 12.first_token | from its own arrival
def first_token(records, step_seconds, arrivals):
    end, found = 0.0, {}
    for record, seconds in zip(records, step_seconds):
        end += seconds
        for made in record.made:
            found.setdefault(made.request_id, end)
    return found

check("12.first_token", first_token)

# %% 12.seats_needed | not step_seconds(1)
def seats_needed(rate, tokens, step_seconds, most):      # as if every step took as long as one with one row
    rows = max(1, -(-rate * tokens * step_seconds(1) // 1))
    return int(rows) if rows <= most else None

check("12.seats_needed", seats_needed)

# %% 12.seats_needed | A request is not one token
def seats_needed(rate, tokens, step_seconds, most):
    for rows in range(1, most + 1):
        if rows / step_seconds(rows) >= rate:
            return rows

check("12.seats_needed", seats_needed)

# %% 12.seats_needed | so None is wanted
def seats_needed(rate, tokens, step_seconds, most):
    for rows in range(1, most + 1):
        if rows / step_seconds(rows) >= rate * tokens:
            break
    return rows

check("12.seats_needed", seats_needed)

# %% 12.seats_needed | are enough
def seats_needed(rate, tokens, step_seconds, most):      # one too many
    for rows in range(1, most + 1):
        if rows / step_seconds(rows) >= rate * tokens:
            return min(rows + 1, most)

check("12.seats_needed", seats_needed)

# %% 12.seats_needed | more rows need not make more tokens
def seats_needed(rate, tokens, step_seconds, most):      # gives up if the largest number of rows is too slow
    if most / step_seconds(most) < rate * tokens:
        return None
    return next(rows for rows in range(1, most + 1) if rows / step_seconds(rows) >= rate * tokens)

check("12.seats_needed", seats_needed)

# %% 12.seats_needed | try them one by one
def seats_needed(rate, tokens, step_seconds, most):      # binary search, as if more rows always made more tokens
    low, high = 1, most + 1
    while low < high:
        rows = (low + high) // 2
        if rows / step_seconds(rows) >= rate * tokens:
            high = rows
        else:
            low = rows + 1
    return low if low <= most else None

check("12.seats_needed", seats_needed)

# %% 12.admit | was overtaken
def admit(waiting, running, seats, room):                # lets whoever fits pass the one who does not
    got_on, reserved = [], sum(tokens for _, tokens in running)
    for name, tokens in waiting:
        if len(got_on) + len(running) < seats and reserved + tokens <= room:
            got_on.append(name)
            reserved += tokens
    return got_on

check("12.admit", admit)

# %% 12.admit | tokens are reserved
def admit(waiting, running, seats, room):                # looks at each newcomer alone
    got_on, reserved = [], sum(tokens for _, tokens in running)
    for name, tokens in waiting[:seats - len(running)]:
        if reserved + tokens > room:
            break
        got_on.append(name)
    return got_on

check("12.admit", admit)

# %% 12.admit | already have seats
def admit(waiting, running, seats, room):
    got_on, reserved = [], sum(tokens for _, tokens in running)
    for name, tokens in waiting[:seats]:
        if reserved + tokens > room:
            break
        got_on.append(name)
        reserved += tokens
    return got_on

check("12.admit", admit)

# %% 12.admit | room for one more
def admit(waiting, running, seats, room):                # the last token of room is never used
    got_on, reserved = [], sum(tokens for _, tokens in running)
    for name, tokens in waiting[:seats - len(running)]:
        if reserved + tokens >= room:
            break
        got_on.append(name)
        reserved += tokens
    return got_on

check("12.admit", admit)
