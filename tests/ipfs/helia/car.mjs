// Reads a CAR file from standard input as an IPFS tool would, and says what it holds:
//   {"roots", "blocks": [cid], "bad": [cid of a block that does not match], "file": {"bytes", "sha256"} or {"error"}}
// "file" is the UnixFS file at the first root, read from nothing but these blocks. Arguments: first byte of the file and its end, if not all.

import { createHash } from 'node:crypto'
import { CarBlockIterator } from '@ipld/car'
import { exporter } from 'ipfs-unixfs-exporter'
import { sha256 } from 'multiformats/hashes/sha2'

const iterator = await CarBlockIterator.fromIterable(process.stdin)
const roots = (await iterator.getRoots()).map(String)
const held = new Map()
const blocks = []
const bad = []
for await (const { cid, bytes } of iterator) {
  blocks.push(cid.toString())
  const hash = await sha256.digest(bytes)
  if (Buffer.compare(Buffer.from(hash.bytes), Buffer.from(cid.multihash.bytes)) !== 0) bad.push(cid.toString())
  held.set(cid.toString(), bytes)
}

const blockstore = {
  async * get (cid) {
    const bytes = held.get(cid.toString())
    if (bytes == null) throw new Error(`no block ${cid}`)
    yield bytes
  }
}
const [from, to] = process.argv.slice(2).map(Number)
let file
try {
  const entry = await exporter(roots[0], blockstore)
  const hash = createHash('sha256')
  let bytes = 0
  const range = to == null ? {} : { offset: from, length: to - from }
  for await (const piece of entry.content(range)) {
    hash.update(piece)
    bytes += piece.length
  }
  file = { bytes, sha256: hash.digest('hex') }
} catch (error) {
  file = { error: `${error}` }
}
console.log(JSON.stringify({ roots, blocks, bad, file }))
