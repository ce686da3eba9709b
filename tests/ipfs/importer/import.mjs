// Imports files and says what came out. A line of standard input is one file:
//   {"seed", "size", "profile"}                                     answered by {"root"}
//   {"seed", "size", "chunk", "width", "layout", "options": {…}}    answered by {"root", "blocks": {cid: hex}}
// A file is the key stream of ChaCha20 under the SHA-256 of its seed, as in the test vectors of IPIP-499.

import { createCipheriv, createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { importByteStream } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced, trickle } from 'ipfs-unixfs-importer/layout'

const PIECE = 1 << 20

function * content (seed, size) {
  const key = createHash('sha256').update(seed).digest()
  const cipher = createCipheriv('chacha20', key, Buffer.alloc(16))
  for (let left = size; left > 0; left -= PIECE) {
    yield cipher.update(Buffer.alloc(Math.min(left, PIECE)))
  }
}

// Keeps blocks only where they are asked for: files of a profile are large.
function blockstore (blocks) {
  return {
    async put (cid, block) {
      if (blocks != null) blocks[cid.toString()] = Buffer.from(block).toString('hex')
      return cid
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const file = JSON.parse(line)
  const blocks = file.profile == null ? {} : undefined
  const options = file.profile != null
    ? { profile: file.profile }
    : {
        ...file.options,
        chunker: fixedSize({ chunkSize: file.chunk }),
        layout: { balanced, trickle }[file.layout]({ maxChildrenPerNode: file.width })
      }
  const { cid } = await importByteStream(content(file.seed, file.size), blockstore(blocks), options)
  console.log(JSON.stringify({ root: cid.toString(), blocks }))
}
