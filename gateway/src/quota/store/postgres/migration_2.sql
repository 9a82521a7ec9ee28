-- The store's own id: servers that keep usage for its gateways know it by this.
CREATE TABLE hansa.owner (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO hansa.owner DEFAULT VALUES;

-- Lives of gateways, from their first lease to their goodbye. One whose lease was ended, in the store's time, may have left
-- charges open, which others settle. Whoever settles something of a life holds its row.
CREATE TABLE hansa.run (
    id uuid PRIMARY KEY,
    gateway uuid NOT NULL,
    ended_ms bigint,
    was_ended boolean NOT NULL DEFAULT false
);
CREATE INDEX run_gateway ON hansa.run (gateway);

-- The charge of the whole request, where a record is of a part that another gateway settled after its life.
ALTER TABLE hansa.record ADD COLUMN part_of uuid;
CREATE INDEX record_part_of ON hansa.record (part_of) WHERE part_of IS NOT NULL;
