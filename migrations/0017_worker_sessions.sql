-- What lets a killed process's work go on within seconds. Nothing here is needed by processes of 0.3.0, and nothing they
-- do is changed: a claim of theirs names no session and ends by its time alone.

-- The worker processes that live, each with a lease that it renews. A worker removes the rows of others whose lease has
-- run out, once it has itself renewed without a break for as long as a lease lasts: so an outage of the ledger, in which
-- nobody can renew, ends nobody's session.
create table worker_sessions (
    id uuid not null primary key,
    -- Since when it has renewed without a break.
    since timestamptz not null,
    held_until timestamptz not null
);

-- One row. Jobs that were queued up to this time are not fresh any more: each must claim. An ingest moves it forward
-- before it publishes a job a second time, since it cannot know whether the first one is out.
create table fresh_limit (
    only_row boolean not null primary key default true constraint fresh_limit_only_row check (only_row),
    queued_upto timestamptz not null
);
insert into fresh_limit (queued_upto) values ('epoch');

-- One row: when schedule last marked deliveries as queued. It publishes their jobs and waits for the confirms before it
-- marks others, so these are the only ones that may have no job when it is killed.
create table schedule_taken (
    only_row boolean not null primary key default true constraint schedule_taken_only_row check (only_row),
    taken_at timestamptz not null
);
insert into schedule_taken (taken_at) values ('epoch');

-- The session that holds a claim, and the claim's end as the session wrote it. A claim that ends at another time is not
-- the session's: a process of 0.3.0 made it later, and left these two as they were.
alter table webhook_deliveries
    add column claimed_by uuid,
    add column session_claim_until timestamptz;
