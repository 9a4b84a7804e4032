-- A day is made apart and then attached. `create table … partition of` locks its parent against everybody: behind a long
-- transaction, such as a dump, every statement of the service waited for it. `attach partition` (SHARE UPDATE EXCLUSIVE)
-- waits for no reader and no writer. The new table is empty, so that its rows are checked in no time.

-- Makes one day of one parent where it is missing; says whether it did. Safe to call from several processes at once.
create function ensure_partition(parent text, day date) returns boolean language plpgsql
set lock_timeout = '2s' as $$
declare
    name text := parent || '_' || to_char(day, 'YYYYMMDD');
begin
    perform pg_advisory_xact_lock(hashtext('xtwebhooks.partitions'));
    if to_regclass(name) is not null then
        return false;
    end if;
    execute format('create table %I (like %I including all)', name, parent);
    execute format('alter table %I attach partition %I for values from (%L) to (%L)',
        parent, name, first_id_of(day), first_id_of(day + 1));
    return true;
end $$;

-- The same for all parents and several days in one transaction, as processes of 0.3.0 call it.
create or replace function ensure_partitions(first date, days integer) returns integer language sql as $$
    select count(*) filter (where ensure_partition(parent, first + day))::integer
    from unnest(array['events', 'webhook_deliveries', 'webhook_delivery_attempts']) as parent,
         generate_series(0, days - 1) as day
$$;
