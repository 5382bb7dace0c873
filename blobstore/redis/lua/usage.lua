-- Add up the bytes of some blobs; missing ones count 0.
-- KEYS blob hashes
-- Returns the sum.
local bytes = 0
for _, blob in ipairs(KEYS) do
  if has_type('hash', blob) and is_stored(blob) then
    bytes = bytes + bytes_in(blob)
  end
end
return bytes
