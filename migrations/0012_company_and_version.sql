-- The last two tables of the ledger without a company get one, so that every row can be found by its company when the
-- ledger is divided by company. Rows of before stay null: they leave with their day, or when what they owe ends.

alter table webhook_delivery_attempts add column company_id uuid;
alter table payloads_owed add column company_id uuid;

-- Counts the changes of a webhook. Its ETag names this number, and a reader can tell which of two states is newer; `xmin`,
-- which served as the ETag before, says neither and changes when a ledger is restored from a dump.
alter table webhooks add column version bigint not null default 1;

create function next_webhook_version() returns trigger language plpgsql as $$
begin
    new.version := old.version + 1;
    return new;
end $$;

create trigger webhook_version before update on webhooks for each row execute function next_webhook_version();
