-- The ledger: one row for each settled charge, written once.
CREATE TABLE hansa.record (
    charge uuid PRIMARY KEY,
    body json NOT NULL
);

CREATE FUNCTION hansa.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'records of the ledger are never changed';
END $$;

CREATE TRIGGER record_is_written_once BEFORE UPDATE ON hansa.record
    FOR EACH ROW EXECUTE FUNCTION hansa.refuse_change();

-- What gateways share: allocations in a period, rates, bounds of requests at once.
CREATE TABLE hansa.pool (
    kind text NOT NULL,
    name text NOT NULL,
    period bigint NOT NULL,
    posted bigint NOT NULL DEFAULT 0,
    excess bigint NOT NULL DEFAULT 0,
    carried bigint NOT NULL DEFAULT 0,
    leased bigint NOT NULL DEFAULT 0,
    full_at_ns bigint NOT NULL DEFAULT 0,
    is_closed boolean NOT NULL DEFAULT false,
    PRIMARY KEY (kind, name, period)
);

-- A gateway for as long as its lease holds. One that begins anew has another id.
CREATE TABLE hansa.gateway (
    id uuid PRIMARY KEY,
    seen_ms bigint NOT NULL,
    ttl_ms bigint NOT NULL
);

-- What a gateway has on lease. Read and written under the lock of its pool.
CREATE TABLE hansa.lease (
    gateway uuid NOT NULL REFERENCES hansa.gateway ON DELETE CASCADE,
    kind text NOT NULL,
    name text NOT NULL,
    period bigint NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (gateway, kind, name, period)
);

-- The store's time, counted by whoever has the tenure.
CREATE TABLE hansa.clock (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    tenure bigint NOT NULL DEFAULT 0,
    is_held boolean NOT NULL DEFAULT false,
    now_ms bigint NOT NULL DEFAULT 0
);
INSERT INTO hansa.clock DEFAULT VALUES;

-- What operators set at run time, and the number of changes so far.
CREATE TABLE hansa.setting (
    kind text NOT NULL,
    id text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE TABLE hansa.revision (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    number bigint NOT NULL DEFAULT 0
);
INSERT INTO hansa.revision DEFAULT VALUES;

CREATE TABLE hansa.audit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    line json NOT NULL
);
