"""What a model's matrices multiply when it reads text, and what is made of that when they are quantized.

    folds        scales that can move from one tensor to another without changing what a model computes
    scaling      how much to fold: AWQ, SmoothQuant

All of it works on parts (`reference`), arrays and block types. It knows no file format, no checkpoint and no family.
"""
