"""Known-wrong answers of notebook 11: each section names words of the message it must get."""

# %% setup
import torch

from aiinfra.lab import check
from aiinfra.model import KVCache

# %% 11.cache_bytes | query heads
def cache_bytes(config, size):
    heads = config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * heads * (config["hidden_size"] // heads) * size

check("11.cache_bytes", cache_bytes)

# %% 11.cache_bytes | exactly half
def cache_bytes(config, size):
    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads", heads)
    return config["num_hidden_layers"] * kv * config.get("head_dim", config["hidden_size"] // heads) * size

check("11.cache_bytes", cache_bytes)

# %% 11.cache_bytes | where head_dim is given
def cache_bytes(config, size):
    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads", heads)
    return 2 * config["num_hidden_layers"] * kv * (config["hidden_size"] // heads) * size

check("11.cache_bytes", cache_bytes)

# %% 11.cache_bytes | KeyError: 'num_key_value_heads'
def cache_bytes(config, size):
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * 128 * size

check("11.cache_bytes", cache_bytes)

# %% 11.cache_bytes | kv_lora_rank
def cache_bytes(config, size):                  # MLA overlooked
    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads", heads)
    return 2 * config["num_hidden_layers"] * kv * config.get("head_dim", config["hidden_size"] // heads) * size

check("11.cache_bytes", cache_bytes)

# %% 11.cache_bytes | no factor 2
def cache_bytes(config, size):
    heads = config["num_attention_heads"]
    width = config.get("num_key_value_heads", heads) * config.get("head_dim", config["hidden_size"] // heads)
    if "kv_lora_rank" in config:
        width = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    return 2 * config["num_hidden_layers"] * width * size

check("11.cache_bytes", cache_bytes)

# %% 11.cache_bytes | rotary part
def cache_bytes(config, size):
    heads = config["num_attention_heads"]
    width = 2 * config.get("num_key_value_heads", heads) * config.get("head_dim", config["hidden_size"] // heads)
    return config["num_hidden_layers"] * config.get("kv_lora_rank", width) * size

check("11.cache_bytes", cache_bytes)

# %% 11.cache_bytes | that is one layer
def cache_bytes(config, size):
    heads = config["num_attention_heads"]
    return 2 * config.get("num_key_value_heads", heads) * config.get("head_dim", config["hidden_size"] // heads) * size

check("11.cache_bytes", cache_bytes)

# %% 11.second_turn | was run at position 0
def turn(model, cache, tokens, count):          # positions left to their default
    made = []
    for _ in range(count):
        new = (tokens + made)[cache.length:]
        made.append(int(model(torch.tensor([new]), None, cache)[0, -1].argmax()))
    return made

check("11.second_turn", turn)

# %% 11.second_turn | the number of tokens before it
def turn(model, cache, tokens, count):          # counts from one
    made = []
    for _ in range(count):
        new = (tokens + made)[cache.length:]
        positions = torch.arange(cache.length, cache.length + len(new)) + 1
        made.append(int(model(torch.tensor([new]), positions, cache)[0, -1].argmax()))
    return made

check("11.second_turn", turn)

# %% 11.second_turn | was never run
def turn(model, cache, tokens, count):          # believes that the last token of the reply is in the cache
    new, made = tokens[cache.length + (cache.length > 0):], []
    for _ in range(count):
        positions = torch.arange(cache.length, cache.length + len(new))
        new = [int(model(torch.tensor([new]), positions, cache)[0, -1].argmax())]
        made += new
    return made

check("11.second_turn", turn)

# %% 11.second_turn | would have to run everything again
def turn(model, cache, tokens, count):          # right tokens, no cache
    made = []
    for _ in range(count):
        made.append(int(model(torch.tensor([tokens + made]))[0, -1].argmax()))
    return made

check("11.second_turn", turn)

# %% 11.second_turn | would have to run everything again
def turn(model, cache, tokens, count):          # a new cache for every turn: a stateless service
    cache, new, made = KVCache(model.config, len(tokens) + count), list(tokens), []
    for _ in range(count):
        positions = torch.arange(cache.length, cache.length + len(new))
        new = [int(model(torch.tensor([new]), positions, cache)[0, -1].argmax())]
        made += new
    return made

check("11.second_turn", turn)

# %% 11.second_turn | must not be run again
def turn(model, cache, tokens, count):          # right tokens, but the whole text goes through the cache at the end of a turn
    made = []
    for _ in range(count):
        made.append(int(model(torch.tensor([tokens + made]))[0, -1].argmax()))
    model(torch.tensor([(tokens + made)[cache.length:]]), torch.arange(cache.length, len(tokens) + count), cache)
    return made

check("11.second_turn", turn)

# %% 11.second_turn | last one says what comes next
def turn(model, cache, tokens, count):          # takes the first row of the logits
    made = []
    for _ in range(count):
        new = (tokens + made)[cache.length:]
        positions = torch.arange(cache.length, cache.length + len(new))
        made.append(int(model(torch.tensor([new]), positions, cache)[0, 0].argmax()))
    return made

check("11.second_turn", turn)

# %% 11.second_turn | without what came before
def turn(model, cache, tokens, count):
    made = list(tokens)
    for _ in range(count):
        new = made[cache.length:]
        positions = torch.arange(cache.length, cache.length + len(new))
        made.append(int(model(torch.tensor([new]), positions, cache)[0, -1].argmax()))
    return made

check("11.second_turn", turn)

# %% 11.second_turn | you returned a Tensor; a list is wanted
def turn(model, cache, tokens, count):          # the right ids
    made = []
    for _ in range(count):
        new = (tokens + made)[cache.length:]
        positions = torch.arange(cache.length, cache.length + len(new))
        made.append(int(model(torch.tensor([new]), positions, cache)[0, -1].argmax()))
    return torch.tensor(made)

check("11.second_turn", turn)

# %% 11.second_turn | the token that stands at 7 was run at 8
def turn(model, cache, tokens, count):          # the prompt is placed right, what is made stands one too far
    made = []
    for _ in range(count):
        new = (tokens + made)[cache.length:]
        positions = torch.arange(cache.length, cache.length + len(new)) + (len(made) > 0)
        made.append(int(model(torch.tensor([new]), positions, cache)[0, -1].argmax()))
    return made

check("11.second_turn", turn)

# %% 11.longest_context | the weights live in the same memory
def longest(memory_bytes, weight_bytes, bytes_per_token, users, limit):
    return min(limit, memory_bytes // (users * bytes_per_token))

check("11.longest_context", longest)

# %% 11.longest_context | users share
def longest(memory_bytes, weight_bytes, bytes_per_token, users, limit):
    return min(limit, (memory_bytes - weight_bytes) // bytes_per_token)

check("11.longest_context", longest)

# %% 11.longest_context | whole number
def longest(memory_bytes, weight_bytes, bytes_per_token, users, limit):
    return max(0, min(limit, (memory_bytes - weight_bytes) / (users * bytes_per_token)))

check("11.longest_context", longest)

# %% 11.longest_context | positions
def longest(memory_bytes, weight_bytes, bytes_per_token, users, limit):
    return max(0, (memory_bytes - weight_bytes) // (users * bytes_per_token))

check("11.longest_context", longest)

# %% 11.longest_context | do not fit
def longest(memory_bytes, weight_bytes, bytes_per_token, users, limit):
    return min(limit, (memory_bytes - weight_bytes) // (users * bytes_per_token))

check("11.longest_context", longest)

# %% 11.attend_latent | Move the matrix to the query
def attend(q, c, w_k, w_v):                     # right, with all keys and values rebuilt
    k, v = torch.einsum("hdr,sr->hsd", w_k, c), torch.einsum("hdr,sr->hsd", w_v, c)
    p = (torch.einsum("hd,hsd->hs", q, k) / q.shape[1] ** 0.5).softmax(-1)
    return torch.einsum("hs,hsd->hd", p, v)

check("11.attend_latent", attend)

# %% 11.attend_latent | Move the matrix to the query
def attend(q, c, w_k, w_v):                     # the keys are spared, the values are not
    p = (torch.einsum("hd,hdr->hr", q, w_k) @ c.T / q.shape[1] ** 0.5).softmax(-1)
    return torch.einsum("hs,hsd->hd", p, torch.einsum("hdr,sr->hsd", w_v, c))

check("11.attend_latent", attend)

# %% 11.attend_latent | the latent's length
def attend(q, c, w_k, w_v):
    p = (torch.einsum("hd,hdr->hr", q, w_k) @ c.T / c.shape[1] ** 0.5).softmax(-1)
    return torch.einsum("hr,hdr->hd", p @ c, w_v)

check("11.attend_latent", attend)

# %% 11.attend_latent | not scaled
def attend(q, c, w_k, w_v):
    p = (torch.einsum("hd,hdr->hr", q, w_k) @ c.T).softmax(-1)
    return torch.einsum("hr,hdr->hd", p @ c, w_v)

check("11.attend_latent", attend)

# %% 11.attend_latent | the output [H, Dh]
def attend(q, c, w_k, w_v):                     # values taken with the keys' matrix
    p = (torch.einsum("hd,hdr->hr", q, w_k) @ c.T / q.shape[1] ** 0.5).softmax(-1)
    return torch.einsum("hr,hdr->hd", p @ c, w_k)

check("11.attend_latent", attend)

# %% 11.attend_latent | behind the mixture
def attend(q, c, w_k, w_v):                     # only the values rebuilt
    p = (torch.einsum("hd,hdr->hr", q, w_k) @ c.T / q.shape[1] ** 0.5).softmax(-1)
    return torch.einsum("hs,hsd->hd", p, torch.einsum("hdr,sr->hsd", w_v, c))

check("11.attend_latent", attend)

# %% 11.attend_latent | One head at a time
def attend(q, c, w_k, w_v):
    rows = []
    for h in range(q.shape[0]):
        k, v = c @ w_k[h].T, c @ w_v[h].T
        rows.append((k @ q[h] / q.shape[1] ** 0.5).softmax(-1) @ v)
    return torch.stack(rows)

check("11.attend_latent", attend)

# %% 11.attend_latent | made one by one
def attend(q, c, w_k, w_v):                     # key by key and value by value
    scores = torch.stack([(torch.einsum("hdr,r->hd", w_k, latent) * q).sum(-1) for latent in c], 1)
    p, out = (scores / q.shape[1] ** 0.5).softmax(-1), 0
    for s, latent in enumerate(c):
        out = out + p[:, s, None] * torch.einsum("hdr,r->hd", w_v, latent)
    return out

check("11.attend_latent", attend)

# %% 11.attend_latent | made one by one
def attend(q, c, w_k, w_v):                     # the keys only, head by head
    scores = torch.stack([torch.stack([w_k[h] @ latent @ q[h] for latent in c]) for h in range(q.shape[0])])
    p = (scores / q.shape[1] ** 0.5).softmax(-1)
    return torch.einsum("hr,hdr->hd", p @ c, w_v)

check("11.attend_latent", attend)

# %% 11.turning_point | ridge
def turn(peak, bandwidth, bytes_per_weight):
    return peak / bandwidth

check("11.turning_point", turn)

# %% 11.turning_point | two FLOPs
def turn(peak, bandwidth, bytes_per_weight):
    return peak * bytes_per_weight / bandwidth

check("11.turning_point", turn)

# %% 11.turning_point | upside down
def turn(peak, bandwidth, bytes_per_weight):
    return 2 * bandwidth / (peak * bytes_per_weight)

check("11.turning_point", turn)

# %% 11.turning_point | is rounded
def turn(peak, bandwidth, bytes_per_weight):
    return -(-peak * bytes_per_weight // (2 * bandwidth))

check("11.turning_point", turn)

# %% 11.tokens_to_run | gives no logits
def tokens_to_run(cached, prompt):
    kept = 0
    while kept < min(len(cached), len(prompt)) and cached[kept] == prompt[kept]:
        kept += 1
    return len(prompt) - kept

check("11.tokens_to_run", tokens_to_run)

# %% 11.tokens_to_run | AFTER the change
def tokens_to_run(cached, prompt):
    return max(1, sum(i >= len(cached) or cached[i] != token for i, token in enumerate(prompt)))

check("11.tokens_to_run", tokens_to_run)

# %% 11.tokens_to_run | wherever it appears
def tokens_to_run(cached, prompt):
    return max(1, len(prompt) - len(set(cached) & set(prompt)))

check("11.tokens_to_run", tokens_to_run)

# %% 11.tokens_to_run | has a new beginning
def tokens_to_run(cached, prompt):              # looks for the cached text anywhere in the prompt
    for start in range(len(prompt)):
        if cached and prompt[start:start + len(cached)] == cached:
            return max(1, len(prompt) - len(cached))
    kept = 0
    while kept < min(len(cached), len(prompt) - 1) and cached[kept] == prompt[kept]:
        kept += 1
    return len(prompt) - kept

check("11.tokens_to_run", tokens_to_run)

# %% 11.tokens_to_run | you counted the others
def tokens_to_run(cached, prompt):
    kept = 0
    while kept < min(len(cached), len(prompt)) and cached[kept] == prompt[kept]:
        kept += 1
    return kept

check("11.tokens_to_run", tokens_to_run)
