from bioverse_sc.datasets import everyday_texts


def test_everyday_sentences_are_many_and_different():
    texts = everyday_texts()
    assert len(texts) >= 150
    assert len(set(texts)) == len(texts)
    assert all(text.strip() == text and len(text) > 20 for text in texts)
