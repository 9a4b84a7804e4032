-- The audit log is read newest first, by company, by what was changed, or over everything; pages go on by (at, id).

create index audit_log_company_page_idx on audit_log (company_id, at desc, id desc);

-- Serves all that the one before it served, which is the same without the id.
drop index audit_log_company_idx;

create index audit_log_page_idx on audit_log (at desc, id desc);

create index audit_log_subject_idx on audit_log (subject, at desc, id desc);

-- So do keys.
create index api_keys_company_page_idx on api_keys (company_id, created_at desc, id desc);

drop index api_keys_company_idx;
