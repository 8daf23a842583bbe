from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given, settings, strategies as st

from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.model import Transformer
from aiinfra.train.corpus import tokenize, tokenize_answers, train_tokenizer
from aiinfra.train.data import IGNORED, MicroBatch, PackedStream, document_order
from aiinfra.train.loop import next_token_loss
from tests.train.stories import corpus, stories, tiny_model

TEXT = corpus()


def same(a: MicroBatch, b: MicroBatch) -> bool:
    pairs = ((a.tokens, b.tokens), (a.targets, b.targets), (a.positions, b.positions),
             (a.documents.cu_seqlens, b.documents.cu_seqlens))
    return all(torch.equal(x, y) for x, y in pairs)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 90), rows=st.integers(1, 9), seed=st.none() | st.integers(0, 5))
def test_an_epoch_has_every_pair_of_tokens_once(length: int, rows: int, seed: int | None) -> None:
    stream = PackedStream(TEXT, length, 1, seed)
    seen = Counter()
    for batch in islice(stream, stream.rows_per_epoch):
        assert len(batch.tokens) == length or stream.position == stream.rows_per_epoch
        seen += Counter(zip(batch.tokens.tolist(), batch.targets.tolist()))
    assert seen == Counter(zip(TEXT.tokens[:-1].tolist(), TEXT.tokens[1:].tolist()))
    assert stream.epoch == 1


def test_positions_and_borders_begin_anew_with_each_document() -> None:
    for batch in islice(PackedStream(TEXT, 40, 3, seed=1), 10):
        borders = batch.documents.cu_seqlens.tolist()
        assert borders[0] == 0 and borders[-1] == len(batch.tokens) == batch.valid
        assert batch.documents.longest == max(batch.documents.cu_seqlens.diff())
        begins = (batch.positions == 0).nonzero().flatten().tolist()
        assert begins == borders[:-1] and (batch.positions.diff()[batch.positions[1:] > 0] == 1).all()
        starts_a_text = batch.tokens == 0
        assert set(starts_a_text.nonzero().flatten().tolist()) <= set(begins)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(5, 60), rows=st.integers(1, 5), seed=st.integers(0, 3), left_at=st.integers(0, 60))
def test_a_stream_goes_on_where_it_was_left(length: int, rows: int, seed: int, left_at: int) -> None:
    """At any micro-batch, in later epochs too: the order of an epoch is not disturbed by where one comes
    in."""
    first = PackedStream(TEXT, length, rows, seed)
    for _ in islice(first, left_at):
        pass
    second = PackedStream(TEXT, length, rows, seed, position=first.position)
    assert all(same(*pair) for pair in islice(zip(first, second), 5))


def test_looking_elsewhere_does_not_disturb_the_order() -> None:
    stream, calm = PackedStream(TEXT, 16, 2, seed=0), PackedStream(TEXT, 16, 2, seed=0)
    assert same(next(stream), next(calm))
    here, stream.position = stream.position, 500
    next(stream)
    torch.manual_seed(12)
    stream.position = here
    assert same(next(stream), next(calm))


def test_eight_times_four_rows_are_thirty_two() -> None:
    few, many = PackedStream(TEXT, 12, 4, seed=3), PackedStream(TEXT, 12, 32, seed=3)
    for large in islice(many, 4):                                       # beyond an epoch
        small = list(islice(few, 8))
        assert torch.equal(torch.cat([one.tokens for one in small]), large.tokens)
        assert torch.equal(torch.cat([one.positions for one in small]), large.positions)
        assert sum(one.text_bytes for one in small) == large.text_bytes


def test_orders_differ_by_seed_and_by_epoch() -> None:
    orders = [document_order(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert document_order(50, 0, 1).tolist() == orders[1]
    assert document_order(50, None, 7).tolist() == list(range(50))


def test_no_document_sees_another() -> None:
    """Logits and gradients of a packed row are those of its documents alone."""
    model = tiny_model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    batch = next(PackedStream(TEXT, 50, 3, seed=0))
    packed = model(batch.tokens, batch.positions, batch.documents)
    lengths = batch.documents.cu_seqlens.diff().tolist()
    assert len(lengths) > 3
    alone = torch.cat([model(part) for part in batch.tokens.split(lengths)])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    probe = torch.randn_like(packed)
    for one, other in zip(gradients(model, (packed * probe).sum()), gradients(model, (alone * probe).sum())):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def gradients(model: Transformer, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(value, list(model.parameters()))


def test_a_change_in_one_document_reaches_no_other() -> None:
    """Also where all documents are equally long, which attention does in one piece."""
    model = tiny_model()
    batch = next(PackedStream(TEXT, 50, 3, seed=0))
    even = replace(batch.documents, cu_seqlens=torch.arange(0, 151, 50, dtype=torch.int32), longest=50)
    for documents in (batch.documents, even):
        before = model(batch.tokens, batch.positions, documents)
        tokens = batch.tokens.clone()
        tokens[60] = (tokens[60] + 1) % 300
        changed = (model(tokens, batch.positions, documents) != before).any(-1)
        end = next(border for border in documents.cu_seqlens.tolist() if border > 60)
        assert changed[60:end].all() and not changed[:60].any() and not changed[end:].any()


def test_a_row_longer_than_the_corpus() -> None:
    message = rf"a row is 9,000 tokens and the whole text is {len(TEXT):,}: give more text"
    with pytest.raises(ValueError, match=message):
        PackedStream(TEXT, 9000, 1, seed=0)
    with pytest.raises(ValueError, match="length=0, rows=1; both must be at least 1"):
        PackedStream(TEXT, 0, 1, seed=0)


def test_parts_of_a_batch_add_up_to_the_loss_of_the_whole() -> None:
    hidden, weight = torch.randn(12, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    targets = torch.randint(0, 20, (12,))
    targets[:5] = -100                                                  # the first part has nothing to learn
    whole = linear_cross_entropy(hidden, weight, targets)
    parts = [linear_cross_entropy(h, weight, t, total=7) for h, t in zip(hidden.split(4), targets.split(4))]
    assert parts[0] == 0
    torch.testing.assert_close(sum(parts), whole)
    of_parts = torch.autograd.grad(sum(parts), (hidden, weight))
    for one, other in zip(of_parts, torch.autograd.grad(whole, (hidden, weight))):
        torch.testing.assert_close(one, other)


def test_only_answers_are_learnt() -> None:
    """A question is read: none of its tokens is a target; all of the answer is, and the end behind it."""
    pairs = [("Who?", " The fox found seven eggs."), ("And then, where was it?", " Here."), ("", "Alone.")]
    tokenizer = train_tokenizer(stories(30), 300)
    made = tokenize_answers(pairs, tokenizer)
    assert torch.equal(made.tokens, tokenize([q + a for q, a in pairs], tokenizer).tokens)
    for document, (question, answer) in enumerate(pairs):
        begin, end = made.starts[document:document + 2].tolist()
        said = made.tokens[begin:end][made.learnt[begin:end]].tolist()
        assert tokenizer.decode([one for one in said if one]).endswith(answer)
        assert len(tokenizer.decode(said)) <= len(answer) + 1 and made.learnt[end]
    stream = PackedStream(made, 16, 1, seed=0)
    seen = list(islice(stream, stream.rows_per_epoch))
    for batch in seen:
        assert batch.valid == (batch.targets != IGNORED).sum()
        assert batch.text_bytes == made.token_bytes[batch.targets[batch.targets >= 0]].sum()
    assert sum(batch.valid for batch in seen) == made.learnt.sum() < len(made)
    assert made.digest() != replace(made, learnt=None).digest()


def test_learnt_tokens_change_the_gradient_and_questions_do_not() -> None:
    """The mean is over what is learnt; what is only read is still seen."""
    pairs = [("The fox found", " an empty café."), ("Who was it?", " My sister.")]
    made = tokenize_answers(pairs, train_tokenizer(stories(30), 300))
    model, batch = tiny_model(), next(PackedStream(made, len(made), 1, seed=0))
    loss = next_token_loss(model, batch, batch.valid)
    logits = model(batch.tokens, batch.positions, kv=batch.documents)
    expected = torch.nn.functional.cross_entropy(logits, batch.targets)
    assert torch.allclose(loss, expected, rtol=1e-5)
