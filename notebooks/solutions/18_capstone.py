"""Answers to notebook 18. Each section replaces the exercise cell of that name."""

# %% 18.in_time
def share_in_time(served, ttft, tpot):             # served: [(arrival, [times of tokens]), …] -> 0 to 1
    good = 0
    for arrival, times in served:
        each = (times[-1] - times[0]) / max(1, len(times) - 1)
        good += times[0] - arrival <= ttft and each <= tpot
    return good / len(served)

check("18.in_time", share_in_time)

# %% 18.most
def most_users(carries, most):                     # carries(users) -> True or False; users: 1 to most
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if carries(middle):
            low = middle
        else:
            high = middle
    return low

check("18.most", most_users)

# %% 18.tune
def tune(score):                                   # score(max_running=…, chunk_tokens=…) -> share in time
    grid = [{"max_running": rows, "chunk_tokens": piece} for rows in (2, 4, 8, 16, 32) for piece in (8, 32, 128)]
    return max(grid, key=lambda settings: score(**settings))

check("18.tune", tune)

# %% 18.timetable
import math

def timetable(rates, each, boot):                  # -> replicas to pay for, in every slot
    need = [math.ceil(rate / each) for rate in rates]
    return [max(need[slot:slot + boot + 1]) for slot in range(len(need))]

check("18.timetable", timetable)

# %% 18.fleet
def buy(offers, try_out):                          # try_out(name, replicas) -> FleetReport; -> (name, replicas)
    plans = [(name, replicas) for name in offers for replicas in (1, 2, 3)]
    plans.sort(key=lambda plan: plan[1] * offers[plan[0]].hourly)
    for name, replicas in plans:                   # the first that keeps the promise: all after it are dearer
        if try_out(name, replicas).score < float("inf"):
            return name, replicas

check("18.fleet", buy)
