"""The tables of blobs."""

from typing import Final

BLOBS: Final = """
-- a blob row names its current upload; parts of 256 kB belong to the upload and go with it
create table pm_blobs(
    namespace text collate "C" not null, container text collate "C" not null, key text collate "C" not null,
    upload text not null, size bigint not null, checksum text not null, content_type text not null,
    metadata text not null, created_at bigint not null, primary key(namespace, container, key));
create table pm_uploads(
    upload text collate "C" primary key, namespace text collate "C" not null, container text collate "C" not null,
    started_at bigint not null, committed boolean not null default false);
create index pm_uploads_place on pm_uploads(namespace, container);
create index pm_uploads_open on pm_uploads(started_at) where not committed;
create table pm_blob_parts(
    upload text collate "C" not null references pm_uploads on delete cascade, number int not null, data bytea not null,
    primary key(upload, number));
alter table pm_blob_parts alter data set storage external;
"""
