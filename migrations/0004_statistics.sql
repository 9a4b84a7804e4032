-- Roll-ups: figures over time without scanning deliveries. A writer is one process, so that no two contend for a row.
-- `latency_histogram` counts by powers of two of microseconds and is merged by adding.

create table delivery_stats (
    company_id uuid not null,
    webhook_id uuid not null,
    event_type text not null,
    minute timestamptz not null,
    outcome text not null,
    writer integer not null,
    attempts bigint not null,
    delivered bigint not null,
    dead bigint not null,
    total_us_sum bigint not null,
    latency_histogram bigint[] not null,
    primary key (company_id, webhook_id, event_type, minute, outcome, writer)
);

create index delivery_stats_minute_idx on delivery_stats (minute);

create table event_stats (
    company_id uuid not null,
    event_type text not null,
    minute timestamptz not null,
    writer integer not null,
    events bigint not null,
    unmatched bigint not null,
    deliveries bigint not null,
    primary key (company_id, event_type, minute, writer)
);

create index event_stats_minute_idx on event_stats (minute);
