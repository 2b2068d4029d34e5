"""Mixtures of experts: which experts a token goes to, and products with the matrices of those alone.

    router     the op that chooses a token's experts by their logits, and weights them
    products   products with chosen matrices of a stack, by the ops of one matrix
    rows       sorting tokens by expert, gathering their rows, and adding up what experts gave
    args       the argument words of this folder's ops

A *stack* is as many matrices of one shape as there are experts, one behind the other in memory, each repacked by
itself. A token is paired with its experts in *slots*, best first: *pair* p is that of token p // used and slot
p % used. For several tokens, pairs are sorted by expert, so that each expert multiplies all rows that are its own;
a pair's *place* is where it stands then.
"""
