"""The tables of graphs."""

from typing import Final

GRAPH: Final = """
create table pm_nodes(
    namespace text collate "C" not null, graph text collate "C" not null, label text collate "C" not null,
    id text collate "C" not null, properties text not null, primary key(namespace, graph, label, id));
create table pm_edges(
    namespace text collate "C" not null, graph text collate "C" not null, id text collate "C" not null,
    source_label text collate "C" not null, source_id text collate "C" not null,
    target_label text collate "C" not null, target_id text collate "C" not null,
    type text collate "C" not null, properties text not null, valid_from bigint, valid_to bigint,
    primary key(namespace, graph, id));
create index pm_edges_source on pm_edges(namespace, graph, source_label, source_id, type);
create index pm_edges_target on pm_edges(namespace, graph, target_label, target_id, type);
"""
