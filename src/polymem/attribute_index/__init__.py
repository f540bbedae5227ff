"""An inverted index over entity attributes, kept in the key-value records of any store (IDX-1)."""

from polymem.attribute_index.index import AttributeIndex
from polymem.attribute_index.postings import AttributeStatistics, Statistics

__all__ = ["AttributeIndex", "AttributeStatistics", "Statistics"]
