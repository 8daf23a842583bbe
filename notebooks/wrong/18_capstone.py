"""Wrong answers to notebook 18, and words that their verdicts must contain."""

# %% setup
import math
from aiinfra.lab import check

# %% 18.in_time | BOTH
def share_in_time(served, ttft, tpot):
    good = 0
    for arrival, times in served:
        each = (times[-1] - times[0]) / max(1, len(times) - 1)
        good += times[0] - arrival <= ttft or each <= tpot
    return good / len(served)

check("18.in_time", share_in_time)

# %% 18.in_time | n - 1 gaps
def share_in_time(served, ttft, tpot):
    good = [t[0] - at <= ttft and (t[-1] - t[0]) / len(t) <= tpot for at, t in served]
    return sum(good) / len(good)

check("18.in_time", share_in_time)

# %% 18.in_time | longest gap
def share_in_time(served, ttft, tpot):
    good = [t[0] - at <= ttft and max([b - a for a, b in zip(t, t[1:])], default=0) <= tpot for at, t in served]
    return sum(good) / len(good)

check("18.in_time", share_in_time)

# %% 18.in_time | ZeroDivisionError
def share_in_time(served, ttft, tpot):
    good = [t[0] - at <= ttft and (t[-1] - t[0]) / (len(t) - 1) <= tpot for at, t in served]
    return sum(good) / len(good)

check("18.in_time", share_in_time)

# %% 18.in_time | at most so many seconds
def share_in_time(served, ttft, tpot):
    good = [t[0] - at < ttft and (t[-1] - t[0]) / max(1, len(t) - 1) < tpot for at, t in served]
    return sum(good) / len(good)

check("18.in_time", share_in_time)

# %% 18.most | load tests
def most_users(carries, most):
    users = 0
    while users < most and carries(users + 1):
        users += 1
    return users

check("18.most", most_users)

# %% 18.most | NOT carried
def most_users(carries, most):
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if carries(middle) else (low, middle)
    return high

check("18.most", most_users)

# %% 18.most | is right
def most_users(carries, most):
    users = 1
    while users <= most and carries(users):
        users *= 2
    return users // 2

check("18.most", most_users)

# %% 18.most | one more is carried
def most_users(carries, most):
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if carries(middle) else (low, middle)
    return low

check("18.most", most_users)

# %% 18.tune | can be
def tune(score):
    return {"max_running": 4, "chunk_tokens": 32}

check("18.tune", tune)

# %% 18.tune | can be
def tune(score):
    return {"max_running": 256, "chunk_tokens": 512}

check("18.tune", tune)

# %% 18.tune | trials
def tune(score):
    grid = [{"max_running": rows, "chunk_tokens": piece} for rows in range(1, 65) for piece in range(8, 513, 8)]
    return max(grid, key=lambda settings: score(**settings))

check("18.tune", tune)

# %% 18.tune | a dict with max_running
def tune(score):
    return max((2, 4, 8, 16, 32), key=lambda rows: score(max_running=rows, chunk_tokens=32))

check("18.tune", tune)

# %% 18.tune | can be
def tune(score):
    grid = [{"max_running": rows, "chunk_tokens": piece} for rows in (2, 4, 8, 16, 32) for piece in (8, 32, 128)]
    return min(grid, key=lambda settings: score(**settings))

check("18.tune", tune)

# %% 18.timetable | slots too late
def timetable(rates, each, boot):
    return [math.ceil(rate / each) for rate in rates]

check("18.timetable", timetable)

# %% 18.timetable | the peak, all day
def timetable(rates, each, boot):
    return [math.ceil(max(rates) / each)] * len(rates)

check("18.timetable", timetable)

# %% 18.timetable | must still be paid
def timetable(rates, each, boot):
    need = [math.ceil(rate / each) for rate in rates]
    return [need[i + boot] if i + boot < len(need) else 0 for i in range(len(need))]

check("18.timetable", timetable)

# %% 18.timetable | look ahead
def timetable(rates, each, boot):
    need = [math.ceil(rate / each) for rate in rates]
    return [max(need[max(0, i - boot):i + 1]) for i in range(len(need))]

check("18.timetable", timetable)

# %% 18.timetable | must
def timetable(rates, each, boot):
    need = [round(rate / each) for rate in rates]
    return [max(need[i:i + boot + 1]) for i in range(len(need))]

check("18.timetable", timetable)

# %% 18.fleet | it can be had for
def buy(offers, try_out):
    return "2 × H100", 2

check("18.fleet", buy)

# %% 18.fleet | of the requests are in time
def buy(offers, try_out):
    return min(offers, key=lambda name: offers[name].dollars), 1

check("18.fleet", buy)

# %% 18.fleet | of the requests are in time
def buy(offers, try_out):
    return "1 × H200", 1

check("18.fleet", buy)

# %% 18.fleet | trials
def buy(offers, try_out):
    found = {(name, n): try_out(name, n) for name in offers for n in (1, 2, 3)}
    return min(found, key=lambda plan: found[plan].score)

check("18.fleet", buy)

# %% 18.fleet | of the requests are in time
def buy(offers, try_out):
    found = {name: try_out(name, 1) for name in offers}
    return min(found, key=lambda name: found[name].dollars), 1

check("18.fleet", buy)

# %% 18.fleet | trials
def buy(offers, try_out):
    best, chosen = math.inf, None
    for name in offers:
        for replicas in (1, 2, 3):
            score = try_out(name, replicas).score
            if score < best:
                best, chosen = score, (name, replicas)
            if score < math.inf:
                break
    return chosen

check("18.fleet", buy)

# %% 18.fleet | start_seconds is not yours to set
def buy(offers, try_out):
    try_out("1 × H200", 1, start_seconds=0)
    return "1 × H200", 1

check("18.fleet", buy)
