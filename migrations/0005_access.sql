-- Who may do what, and who did what. Secrets of keys are kept as SHA-256 only.

create table api_keys (
    id text primary key,
    company_id uuid,
    name text not null,
    secret_sha256 bytea not null,
    scopes text[] not null,
    created_at timestamptz not null default now(),
    created_by text,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);

create index api_keys_company_idx on api_keys (company_id, created_at);

create table audit_log (
    id uuid primary key,
    at timestamptz not null default now(),
    company_id uuid,
    actor text not null,
    action text not null,
    subject text not null,
    before json,
    after json,
    address text
);

create index audit_log_company_idx on audit_log (company_id, at);

create table idempotency_keys (
    company_id uuid not null,
    key text not null,
    request_sha256 bytea not null,
    response_status integer,
    response_body text,
    created_at timestamptz not null default now(),
    primary key (company_id, key)
);

create index idempotency_keys_created_idx on idempotency_keys (created_at);
