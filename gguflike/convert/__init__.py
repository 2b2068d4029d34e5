"""Checkpoint to GGUF, GGUF to GGUF, and back: what is asked for becomes a plan, and the plan is carried out.

What users call:

    from_checkpoint  a Hugging Face checkpoint to a GGUF file
    quantize         a GGUF file to another of a different type
    shards           a GGUF file into several, and several into one
    adapter          an adapter alone, as a file that llama.cpp applies to a model
    generic          any network: names of tensors as they are, types by rules that know no architecture
    to_checkpoint    a GGUF file back to a Hugging Face folder
    generic_export   the same for a file of any network
    matrix_inputs    importance matrices and Hessians: what a model's matrices multiply when it reads text
    observed         fixed ranges of activations, likewise
    folder_tensors   a checkpoint's tensors by GGUF's names, unrounded: what diff and evaluate compare with

What is asked for:

    recipe           which block type each tensor gets; mixes has the tables of llama-quantize
    mixes            the mixes of types that llama-quantize makes, by name
    facts            what recipes ask of a tensor and of its model
    selection        types of single tensors, layers left out, metadata set by hand
    effort           how much is done to lose little: calibration, folds, tuning
    budget           a size that the file is to have
    imatrix          importance matrices, in llama.cpp's files
    lora             adapters that are merged into the model
    target           the file that a target means

Where tensors come from:

    sources          one interface over a checkpoint's tensors, a GGUF file's and computed ones
    source_model     a checkpoint as its family reads it: configuration, tensors, what there is to say
    matching         a checkpoint's tensors paired with their places in the file
    float4           4-bit floats that GGUF's types hold bit for bit
    slabs            a source in parts, so that memory is bounded

The plan, made from shapes alone before data are read:

    planning         how it is made
    plan             what it says
    planned          one tensor of it
    sized            types by which it keeps to a size
    metadata         general.* and where the file came from
    model_names      maker, size and version by a model's name
    calibration      on what text the model runs, and what that takes
    given_hessians   the same where Hessians are given, so that it need not run
    folding          which scales may move between tensors
    tuning           what is trained end to end
    carded           places for figures about the file
    stages           what is done beside encoding
    workload         operations that it takes, and how fast they are here
    floats           the model as the parts of reference/ compute it

Carrying it out:

    execute          one tensor after the other, into a file that appears complete
    encode           one tensor from its source to bytes
    pipeline         reading, encoding and writing at the same time
    resume           what the bytes depend on, so that a run that was cut off can go on
    folder           a folder that appears complete, for exports
    folded           scales are chosen, and tensors read by way of them
    allocation       types by what they cost in a file of a size
    costs            what is measured of that, in a file that outlives the run
    losses           what an error of a matrix costs
    prior            the same where no text is read
    calibrated       matrices rounded for the inputs that they will have
    tuned            training of what was rounded
    proof            texts that the new file must tokenize as the source does
"""

from gguflike.convert.from_checkpoint import convert
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.quantize import quantize_file
from gguflike.convert.shards import merge, split
from gguflike.convert.to_checkpoint import ExportPlan, export

__all__ = ["ConversionPlan", "ExportPlan", "PlannedTensor", "convert", "export", "merge", "quantize_file", "split"]
