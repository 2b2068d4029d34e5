"""Model families: what each is made of, and what its parts, tensors and hyper-parameters are called on both sides.

What families are made with:

    parts/         what models are made of; no part knows a family
    family         what a family is: data, and a short function from a configuration to a graph of parts
    refused        models that are refused by name, and why
    registry       one line a family: its file, its general.architecture, its classes
    assumed        what Transformers assumes for keys that config.json lacks, and what model_type means
    config         typed hyper-parameters and their side of GGUF
    config_json    their side of config.json
    kinds          what values of config.json must be before families compute with them
    inert          keys of either that change nothing
    origins        where a tensor stands in a checkpoint
    names          what checkpoints call tensors, and what they hold beside the model's
    transforms     what happens to its rows on the way
    rope           frequencies of rotary positions
    rope_settings  how config.json spells them
    storage        what llama.cpp's quantizer asks by the name of an architecture
    demands        what llama.cpp demands of attention, likewise

What many families share:

    decoder        hyper-parameters, graph and names of nearly all
    layernorm      those with layer norms, or with attention and feed-forward in parallel
    windows        those with sliding windows, or with layers that do not rotate
    mixture        those with experts
    hybrid         those with recurrent layers
    mtp            those with heads that predict the token behind the next
    pooling        those that give vectors or scores of texts

All other files are families. They build on these and on each other: one with experts on the dense one of its maker, an
embedding model on a decoder. So they stand side by side, not in folders by kind; the registry lists them by kind.
"""
