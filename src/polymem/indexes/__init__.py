"""Search structures in memory that the embedded engines share.

Text: `analyzer(language)`, `encode_tokens` (the BLOB stored beside a document), `TextIndex` (BM25 over such
BLOBs), `Vocabulary` (prefixes). Vectors: `VectorIndex`. `IndexCache` bounds the memory of many of them.
"""

from polymem.indexes.analyzer import LANGUAGES, Analyzer, analyzer, fold
from polymem.indexes.evicting import IndexCache
from polymem.indexes.matrix import VectorIndex
from polymem.indexes.postings import TextIndex
from polymem.indexes.tokens import FORMAT, encode_tokens
from polymem.indexes.vocabulary import Vocabulary

__all__ = [
    "FORMAT",
    "LANGUAGES",
    "Analyzer",
    "IndexCache",
    "TextIndex",
    "VectorIndex",
    "Vocabulary",
    "analyzer",
    "encode_tokens",
    "fold",
]
