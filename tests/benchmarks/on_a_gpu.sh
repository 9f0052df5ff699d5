#!/usr/bin/env bash
# Everything that waits for an NVIDIA GPU, in one go and at most eight minutes: the contract of devices, and decoding and
# prefill of pebble and of a random model of 336 M parameters. From the repository's root:
#
#     bash tests/benchmarks/on_a_gpu.sh [LOG [WHEELS]]
#
# WHEELS is a folder with all wheels, onnxruntime-gpu's too; without it pip asks its registry. It goes on after a step
# that fails, so that the LOG, by default on_a_gpu.log, tells all. It was never run on a GPU yet.
set -uo pipefail
cd "$(dirname "$0")/../.."
log=${1:-on_a_gpu.log}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SKIPSTONE_CACHE="$work/cache"
pip=("$work/venv/bin/python" -m pip -qq --disable-pip-version-check)
from=()
[ $# -lt 2 ] || from=(--no-index --find-links "$2")

step() {  # SECONDS COMMAND ...
    local seconds=$1
    shift
    printf '\n$ %s\n' "$*"
    timeout "$seconds" "$@" || echo "failed: $?"
}

install() {
    "$(command -v python3.11 || command -v python3)" -m venv "$work/venv"
    # onnxruntime-gpu lies where onnxruntime does, so it comes last.
    timeout 130 "${pip[@]}" install "${from[@]}" . 'onnxruntime-gpu[cuda,cudnn]' pytest hypothesis filelock \
        pytest-benchmark pytest-xdist
    timeout 50 "${pip[@]}" install "${from[@]}" --force-reinstall --no-deps onnxruntime-gpu
}

write_random_model() {
    "$work/venv/bin/python" - "$work/ref336" <<'PY'
import json, shutil, sys
from pathlib import Path
import numpy as np, skipstone
from safetensors.numpy import save_file

out = Path(sys.argv[1])
out.mkdir()
source = Path(skipstone.__file__).parent / "models" / "pebble"
shutil.copy(source / "tokenizer.json", out)
layers, hidden, ffn, heads, kv_heads, size, vocabulary = 24, 1024, 2816, 16, 4, 64, 32000
config = dict(model_type="llama", architectures=["LlamaForCausalLM"], hidden_act="silu", rms_norm_eps=1e-5, rope_theta=1e4)
config |= dict(num_hidden_layers=layers, hidden_size=hidden, intermediate_size=ffn, num_attention_heads=heads)
config |= dict(num_key_value_heads=kv_heads, head_dim=size, vocab_size=vocabulary, max_position_embeddings=4096)
config |= dict(tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
(out / "config.json").write_text(json.dumps(config))
shapes = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden)}
norms = ["model.norm"]
for n in range(layers):
    at = f"model.layers.{n}."
    shapes |= {at + "self_attn.q_proj": (heads * size, hidden), at + "self_attn.o_proj": (hidden, heads * size)}
    shapes |= {at + f"self_attn.{kind}_proj": (kv_heads * size, hidden) for kind in "kv"}
    shapes |= {at + f"mlp.{kind}_proj": (ffn, hidden) for kind in ("gate", "up")} | {at + "mlp.down_proj": (hidden, ffn)}
    norms += [at + "input_layernorm", at + "post_attention_layernorm"]
random = np.random.default_rng(0)
tensors = {f"{k}.weight": random.standard_normal(s, np.float32) * np.float32(0.02) for k, s in shapes.items()}
save_file(tensors | {f"{k}.weight": np.ones(hidden, np.float32) for k in norms}, out / "model.safetensors")
PY
}

main() {
    date; git log -1 --format=%H 2>/dev/null; nvidia-smi
    install
    local skipstone="$work/venv/bin/skipstone"
    step 20 "$skipstone" devices
    step 60 "$skipstone" devices --check cuda
    step 50 "$work/venv/bin/python" -m pytest -m cuda tests/devices -rs
    step 20 "$skipstone" export pebble -o "$work/pebble" --target cuda
    step 25 "$skipstone" bench speed "$work/pebble" --device cuda --runs 3
    step 40 "$skipstone" bench suite "$work/pebble" --device cuda --runs 1 --new-tokens 64 --decode ngram,suffix
    write_random_model
    step 60 "$skipstone" export "$work/ref336" -o "$work/b336" --target cuda --precision int4
    step 25 "$skipstone" bench speed "$work/b336" --device cuda --runs 3 --prompt-tokens 1024
}

main 2>&1 | tee "$log"
