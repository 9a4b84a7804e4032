-- How long after its event, or of a replay after its start, a retry may begin; null for no limit.
alter table webhooks add column max_attempt_age_seconds integer
    constraint webhooks_max_attempt_age_range check (max_attempt_age_seconds between 60 and 2592000);
