#!/usr/bin/env bash
# Run the tests on 64-bit Arm without having one: an arm64 Python from Debian's packages, with PyPI's aarch64 wheels,
# under qemu's user-mode emulation. Needs apt-get, dpkg-deb and a Python 3.11 with venv and pip; no root.
#
#   bash scripts/test_arm.sh [--all] [--cpu NAME]... [FOLDER] [-- PYTEST ARGUMENTS]
#
#   --all        all offline tests; otherwise a choice that runs every kind of kernel (hours; under an hour a CPU)
#   --cpu NAME   max (dot products of bytes: sdot and usdot), neoverse-n1 (sdot only), cortex-a57 (neither);
#                may be repeated; by default max and cortex-a57
#   FOLDER       where the Python and the compiled kernels are kept (1 GB); by default ~/.cache/gguflike-arm
#   --           what follows is given to pytest instead of our choice of tests
#
# Made once: later calls go straight to the tests. FOLDER/CPU/python is the interpreter. Emulation on x86 keeps x86's
# order of memory accesses: what only Arm's weaker order can break does not show here.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/gguflike-arm
cpus=() all=no tests=()
while (($#)); do
  case $1 in
    --all) all=yes ;;
    --cpu) cpus+=("$2"); shift ;;
    --) shift; tests=("$@"); break ;;
    -*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
    *) folder=$1 ;;
  esac
  shift
done
((${#cpus[@]})) || cpus=(max cortex-a57)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# Debian's packages ``$3...`` and what they depend on for architecture ``$1``, unpacked into ``$2``.
unpack() {
  local architecture=$1 root=$2 apt
  shift 2
  apt=$(mktemp -d)
  mkdir -p "$apt/lists" "$apt/cache/archives/partial" "$apt/parts" "$root"
  : >"$apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main" >"$apt/sources.list"
  cat >"$apt/conf" <<CONF
Dir::State::lists "$apt/lists"; Dir::State::status "$apt/status"; Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list"; Dir::Etc::sourceparts "$apt/parts"; Dir::Etc::parts "$apt/parts";
APT::Architecture "$architecture"; APT::Architectures { "$architecture"; }; APT::Sandbox::User "";
CONF
  APT_CONFIG=$apt/conf apt-get -qq update
  APT_CONFIG=$apt/conf apt-get -qq -y --no-install-recommends --download-only install "$@"
  for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
  rm -rf "$apt"
}

if [ ! -e "$folder/made" ]; then
  echo "making an arm64 Python in $folder"
  unpack arm64 "$folder/root" python3 libstdc++6 libgomp1
  unpack "$(dpkg --print-architecture)" "$folder/qemu" qemu-user-static
  python3 -m venv "$folder/host"
  "$folder/host/bin/python" -m pip install --quiet numpy libgguf
  # libgguf has no wheel for Arm: Arm's tests ask the host's, below.
  "$folder/host/bin/python" - "$repository/pyproject.toml" >"$folder/requirements" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["test"]
print(*(line for line in wanted if not line.startswith(("libgguf", "ruff", "mypy"))), sep="\n")
PYTHON
  platforms=()
  for glibc in 17 26 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
  "$folder/host/bin/python" -m pip install --quiet --target "$folder/site" --only-binary=:all: --implementation cp \
    --python-version 3.11 "${platforms[@]}" --platform manylinux2014_aarch64 -r "$folder/requirements"
  touch "$folder/made"
fi

mkdir -p "$folder/site/libgguf"
cat >"$folder/site/libgguf/__init__.py" <<PYTHON
"""libgguf's functions, called in a Python of the host's architecture."""
import pickle, subprocess
_SERVE = """
import libgguf, pickle, sys
while True:
    name, args, kwargs = pickle.load(sys.stdin.buffer)
    try: answer = True, getattr(libgguf, name)(*args, **kwargs)
    except Exception as error: answer = False, error
    pickle.dump(answer, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""
_pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
_host = subprocess.Popen(["$folder/host/bin/python", "-c", _SERVE], env={}, cwd="/", **_pipe)
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    def call(*args, **kwargs):
        pickle.dump((name, args, kwargs), _host.stdin)
        _host.stdin.flush()
        done, answer = pickle.load(_host.stdout)
        if not done: raise answer
        return answer
    return call
PYTHON

# What the kernel of a machine with such a CPU says of it (LLVM reads it): qemu finds proc/cpuinfo beside its libraries.
plain="fp asimd evtstrm aes pmull sha1 sha2 crc32"
n1="$plain atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs"
n2="$n1 jscvt fcma sha3 sha512 asimdfhm dit uscat ilrcpc flagm dcpodp flagm2 frint i8mm bf16 rng"
for cpu in "${cpus[@]}"; do
  case $cpu in
    cortex-a57) part=0xd07 features="$plain cpuid" ;;
    neoverse-n1) part=0xd0c features=$n1 ;;
    max) part=0xd49 features=$n2 ;; # a Neoverse N2
    *) echo "unknown CPU $cpu; expected max, neoverse-n1 or cortex-a57" >&2; exit 2 ;;
  esac
  mkdir -p "$folder/$cpu/proc"
  for name in "$folder/root"/*; do ln -sfn "$name" "$folder/$cpu/${name##*/}"; done
  printf 'processor\t: 0\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 0\n\n' \
    "$features" "$part" >"$folder/$cpu/proc/cpuinfo"
  cat >"$folder/$cpu/python" <<SH
#!/bin/sh
# Python calls itself by this file's name, so that its child processes are emulated too.
exec "$folder/qemu/usr/bin/qemu-aarch64-static" -cpu $cpu -L "$folder/$cpu" -0 "$folder/$cpu/python" -E PYTHONHOME=/usr \\
  -E "PYTHONPATH=$folder/site\${PYTHONPATH:+:\$PYTHONPATH}" "$folder/root/usr/bin/python3.11" "\$@"
SH
  chmod +x "$folder/$cpu/python"
done

# One or more of each family of kernels.
quick=(
  "tests/test_emitter.py"
  "tests/test_half.py"
  "tests/test_objects.py tests/test_relocations.py"
  "tests/test_decode.py -k 'random_bits and (F16 or BF16 or Q4_0 or Q5_1 or Q8_0 or Q3_K or Q4_K or Q6_K or IQ4_NL or IQ2_XS or IQ3_S or IQ1_M or TQ1_0 or TQ2_0 or MXFP4 or NVFP4)'"
  "tests/test_matmul.py -k 'every_type and (F32 or F16 or BF16 or Q4_0 or Q4_1 or Q8_0 or Q2_K or Q6_K or IQ4_NL or IQ2_XS or TQ1_0)'"
  "tests/test_program.py tests/test_team.py"
  "tests/test_threads.py"
  "tests/test_rows.py -k 'of_any_width and 100 or as_int8 or gelu or caps'"
  "tests/test_attention.py -k 'everything or sinks or 80 or q8_0'"
  "tests/test_latent.py -k 'without or q8_0'"
  "tests/test_experts.py -k 'reference_says and 2 and (plain or groups) or blocks and 2 and Q8_0 and plain'"
  "tests/test_recurrent.py -k 'the_reference and (mamba or biases) or same_bits'"
  "tests/test_runner.py -k 'definition or int8_activations or prefill or q8_cache'"
  "tests/test_encode.py -k 'no_more_than_ggml and not outliers and (Q8_0 or Q4_1 or Q4_K or Q6_K or IQ4_XS or MXFP4) or ternary and TQ2_0 or converted or integers'"
  "tests/test_encode_lattice.py -k 'clearly_below and (IQ2_XXS or IQ1_S) or halves or words or moves or quads or fills'"
)
if ((${#tests[@]})); then
  chosen=("$(printf '%q ' "${tests[@]}")")
elif [ $all = yes ]; then
  chosen=()
  for file in "$repository"/tests/test_*.py; do chosen+=("tests/${file##*/}"); done
else
  chosen=("${quick[@]}")
fi

export PYTHONPATH=$repository PYTHONPYCACHEPREFIX=$folder/pycache GGUFLIKE_CACHE_DIR=$folder/cache
cd "$repository"
failed=0
for cpu in "${cpus[@]}"; do
  for test in "${chosen[@]}"; do
    echo "== $cpu: $test"
    started=$SECONDS status=0
    # Emulation makes everything about twenty times as slow: the limits that catch a hanging test are longer.
    eval "'$folder/$cpu/python' -m pytest -q -p no:cacheprovider --timeout 3600 $test" || status=$?
    ((status == 0)) || failed=1
    echo "== $cpu: $((SECONDS - started)) s, status $status"
  done
done
exit $failed
