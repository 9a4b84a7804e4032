-- What came due since schedule last looked, whatever webhook it waits for. Only days that are still empty get it, and with
-- them all later ones: an index over a filled day would hold up its writers while it is built. Schedule asks which days
-- have it, and visits the webhooks of the others in turn.
create index webhook_deliveries_due_idx on only webhook_deliveries (due_at)
    where status = 'pending' and queued_at is null;

do $$
declare
    day name;
    is_filled boolean;
begin
    for day in select c.relname
               from pg_inherits i
               join pg_class c on c.oid = i.inhrelid
               where i.inhparent = 'webhook_deliveries'::regclass loop
        execute format('select exists (select from %I)', day) into is_filled;
        if not is_filled then
            execute format('create index %I on %I (due_at) where status = ''pending'' and queued_at is null',
                day || '_due_at_idx', day);
            execute format('alter index webhook_deliveries_due_idx attach partition %I', day || '_due_at_idx');
        end if;
    end loop;
end $$;
