"""Small protein and molecule encoders with random weights, in the format in which the published ones come."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import EsmConfig, EsmModel, EsmTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

ESM_TOKENS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()


def write_esm(folder, *, width=16, seed=0):
    """An ESM-2 checkpoint of two layers: config.json, model.safetensors, vocab.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(ESM_TOKENS))
    tokenizer = EsmTokenizer(str(folder / "vocab.txt"))
    config = EsmConfig(
        vocab_size=len(ESM_TOKENS),
        mask_token_id=tokenizer.mask_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    torch.manual_seed(seed)
    module = EsmModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_chemberta(folder, *, width=16, seed=0, characters="()=#@+-[]123456789%/\\.CNOSPFIBrclnosphHaeK"):
    """A RoBERTa checkpoint of SMILES characters: config.json, model.safetensors, tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(set(characters))]
    fast = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Split(pattern="", behavior="isolated")
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", **special
    )
    config = RobertaConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=130,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        type_vocab_size=1,
    )
    torch.manual_seed(seed)
    module = RobertaModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def damage(folder, name):
    """Leave one tensor out of the weights."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights[next(key for key in weights if name in key)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text())
