"""Runs llama.cpp's server with a tiny model of random weights, which this script makes. It runs in .tools/servers. The
model writes random words. Its answers, and its JSON strings, end after about 30 tokens. Its tokens are characters, so
that a conversation soon fills the window. Prints the server's address once it takes requests.
"""

import argparse
import threading
from pathlib import Path

import gguf
import numpy
import xllamacpp

WORDS = """
    the of and is it you that was for on are with they be at one have this from had by hot some there we can out other
    were all your up use word how said each she do time if will way about many then would write like so these her make
    see him has look more day could go come did my no most number over know water than call first people may side now
"""

WIDTH, INNER, HEADS = 64, 128, 4
LONGEST = 4096  # tokens, which the model was "trained" for
CHAT = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}[assistant]"

# The log-probability of a token, independent of the text before it. 0: as likely as any word.
END, QUOTE, CHARACTER, NEVER = 1.3, 1.3, -4.0, -14.0


def write_model(path: Path) -> None:
    """A model of llama's architecture: one layer of 64 dimensions, 0.4 MB."""
    space = "▁"  # as SentencePiece writes it
    characters = [chr(code) for code in range(33, 127)] + [space]
    tokens = [("<unk>", 2, NEVER), ("<s>", 3, NEVER), ("</s>", 3, END)]
    tokens += [(f"<0x{byte:02X}>", 6, NEVER) for byte in range(256)]
    tokens += [(character, 1, QUOTE if character == '"' else CHARACTER) for character in characters]
    tokens += [(space + word, 1, 0.0) for word in WORDS.split()]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text.encode() for text, _, _ in tokens])
    # The tokenizer never joins two tokens, so the words appear only in answers.
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kind for _, kind, _ in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT)

    random = numpy.random.default_rng(1)

    def weights(*shape: int) -> numpy.ndarray:
        return (random.standard_normal(shape) * 0.02).astype(numpy.float32)

    # The first dimension is the same for all tokens. After the norm it is about the root of the width, whatever the
    # layer adds, so that what it weighs is a constant.
    embedding, output = weights(len(tokens), WIDTH), weights(len(tokens), WIDTH)
    embedding[:, 0] = 1
    output[:, 0] = numpy.array([likely for _, _, likely in tokens]) / WIDTH**0.5
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    for norm in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{norm}.weight", numpy.ones(WIDTH, numpy.float32))
    for attention in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{attention}.weight", weights(WIDTH, WIDTH))
    writer.add_tensor("blk.0.ffn_gate.weight", weights(INNER, WIDTH))
    writer.add_tensor("blk.0.ffn_up.weight", weights(INNER, WIDTH))
    writer.add_tensor("blk.0.ffn_down.weight", weights(WIDTH, INNER))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="where the model is written")
    parser.add_argument("--window", type=int, required=True, help="tokens of a conversation")
    parser.add_argument("--key", required=True, help="the API key that it takes")
    arguments = parser.parse_args()
    write_model(arguments.model)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(arguments.model)
    parameters.model_alias = {"tiny"}
    parameters.n_ctx = arguments.window
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.sampling.seed = 1
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [arguments.key]
    parameters.endpoint_metrics = True
    server = xllamacpp.Server(parameters)
    print(f"listening at {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
