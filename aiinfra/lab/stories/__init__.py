"""The stories that notebook 04 learns from: written by a real model, through our own engine, and sieved.

    words.py   what a story is about: an order, the first sentence, and the first words of the last one
    write.py   hundreds of orders at once to the engine; what it answers goes to a file of raw stories
    sieve.py   which of them are kept, and why the others are not
    splits     data/stories/{train,validation,test}.txt, by the hash of a story

`python -m aiinfra.lab.stories --help`. How the shipped corpus was made: data/stories/README.md.
"""
