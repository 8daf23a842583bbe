"""Solutions of notebook 11, the KV cache: one section an exercise, each the whole cell."""

# %% 11.cache_bytes
def cache_bytes(config, bytes_per_value):       # config: a parsed config.json
    heads = config["num_attention_heads"]
    if "kv_lora_rank" in config:                # MLA: one vector serves keys and values
        values = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    else:
        head_dim = config.get("head_dim", config["hidden_size"] // heads)
        values = 2 * config.get("num_key_value_heads", heads) * head_dim
    return config["num_hidden_layers"] * values * bytes_per_value

check("11.cache_bytes", cache_bytes)

# %% 11.second_turn
def second_turn(model, cache, tokens, count):   # tokens: the whole conversation -> `count` new ids, greedy
    made = []
    for _ in range(count):
        new = (tokens + made)[cache.length:]    # whatever the cache has not seen
        positions = torch.arange(cache.length, cache.length + len(new))
        logits = model(torch.tensor([new]), positions, cache)      # [1, T, V]
        made.append(int(logits[0, -1].argmax()))
    return made

check("11.second_turn", second_turn)

# %% 11.longest_context
def longest_context(memory_bytes, weight_bytes, bytes_per_token, users, limit):
    left = (memory_bytes - weight_bytes) // (users * bytes_per_token)
    return max(0, min(left, limit))

check("11.longest_context", longest_context)

# %% 11.attend_latent
def attend_latent(q, c, w_k, w_v):              # q [H, Dh], c [S, R], w_k and w_v [H, Dh, R]
    q_c = torch.einsum("hd,hdr->hr", q, w_k)    # [H, R] the query, turned into the latent space
    p = (q_c @ c.T / q.shape[1] ** 0.5).softmax(-1)                # [H, S]
    return torch.einsum("hr,hdr->hd", p @ c, w_v)                  # mix first, expand once: [H, Dh]

check("11.attend_latent", attend_latent)

# %% 11.turning_point
def turning_point(peak, bandwidth, bytes_per_weight):
    return peak / bandwidth * bytes_per_weight / 2

check("11.turning_point", turning_point)

# %% 11.tokens_to_run
def tokens_to_run(cached, prompt):              # two lists of token ids
    kept = 0
    while kept < min(len(cached), len(prompt) - 1) and cached[kept] == prompt[kept]:
        kept += 1
    return len(prompt) - kept

check("11.tokens_to_run", tokens_to_run)
