"""MANY RANKS, SAME MODEL: processes that hold parts of one model and of its work, and together do what one
would.

Reading order:
    launch, agree    processes that know one another
    mesh             their places, by dimension
    parts            how a model is cut
    communicator     who is who, and messages between two; by_hand: all of it, on a page
    layout           where activations are between the modules of a model that is cut
    vocabulary       words on several ranks: embedding, last layer, loss
    tensor, latent   heads, feed-forward and words of one model on several ranks
    schedule, orders, timing    pipelines as tables: no device is needed
    stages, pipeline            layers on several ranks, run by such a table; saved: what waits there
    counting         what is sent: counted by collective
    link             a slower network, emulated
    share, inference    what a rank reads of a checkpoint, and computes with the others
    context          parts of a long row on several ranks: ring attention
    overlap          the next batches on their way while the model is busy
    rows, recommender    a table of items cut among ranks: what the batches' ids travel to
    ranks, data      sums over ranks, one norm; copies and FSDP
    parallelize      all of it, applied to one model
    checkpoint       the state of a run, which any other mesh can take up
    team             a training run by all ranks: the same files as with one process
    mixes, equality  is every mix one process? table and command print it
"""
