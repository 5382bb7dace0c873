-- Add up the bytes of some blobs; absent ones have none.
-- KEYS each blob's hash
-- Returns the sum.
local bytes = 0
for _, blob in ipairs(KEYS) do
  if is_a('hash', blob) and is_there(blob) then
    bytes = bytes + bytes_in(blob)
  end
end
return bytes
