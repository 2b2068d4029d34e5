"""Mixers that carry a state of fixed size from token to token: convolutions, the gated delta rule, state-space models.

    conv      causal convolutions of each channel, with what stands beside them
    gates     step sizes, decays and strengths of writing, for all heads of a token
    delta     the gated delta rule
    channels  the same where each channel of a key decays by itself
    scan      the recurrences of Mamba 2 and Mamba
    columns   what the two do to a column of a state
    norms     normalization of heads and groups, gated by another product
    args      the argument words of this folder's ops

States are float32. The *state* of a head is a matrix, of which a vector holds a column of sixteen rows: a *block* is
sixteen rows by all columns. Blocks depend on each other by nothing but their inputs, so an item is a block, which goes
through all tokens of a pass in order. One token and many therefore give the same bits.
"""
