"""The Hugging Face Hub, and files behind other URLs. Importing this imports no client of either.

From what a user names down to requests:

    resolver     the GGUF files that a name stands for, fetched into a cache
    repository   a repository as a checkpoint: small files on disk, weights by ranges
    downloads    files behind other URLs, in a cache folder of our own
    ahead        what will be read next, fetched before it is asked for
    remote       a file read by ranges: resumed, on several connections, all of one state
    downloaded   what huggingface_hub downloads, watched and compared with what the Hub says
    listing      what a repository has, as the Hub's list of files says it
    redirects    where a server may send us
    retry        how often a request is made again, and after how long
    client       what is asked of huggingface_hub, which is imported there only, and its errors in plain words
    reference    what a name stands for: a repository, one of its files, a URL
"""
