// A Helia peer of a private swarm on loopback. Its one argument is JSON: {"key": file of the swarm key, "dial": multiaddresses}.
// It prints {"peer", "addresses"} once it listens; then each line of standard input is a request, answered by a line:
//   {"add": file, "chunk", "raw", "version"}   imports and announces a file: {"root"}
//   {"cat": cid, "from", "to", "dht"}          reads bytes of a file: {"sha256", "bytes"}; "dht": only after its provider was found by DHT
//   {"providers": cid}                         whom the DHT names: {"peers"}
// An answer to what failed is {"error"}.

import { createHash } from 'node:crypto'
import { createReadStream, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { CID } from 'multiformats/cid'

const LIMIT = 120_000

const { key, dial } = JSON.parse(process.argv[2])
const helia = withBitswap(withLibp2pLight(createHeliaLight(), {
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionProtector: preSharedKey({ psk: readFileSync(key) }),
  // Addresses of loopback are not dialled otherwise.
  connectionGater: { denyDialMultiaddr: () => false },
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({ protocol: '/ipfs/lan/kad/1.0.0', clientMode: false, peerInfoMapper: passthroughMapper })
  }
}))
await helia.start()
const files = unixfs(helia)
for (const address of dial) await helia.libp2p.dial(multiaddr(address))
answer({ peer: helia.libp2p.peerId.toString(), addresses: helia.libp2p.getMultiaddrs().map(String) })

for await (const line of createInterface({ input: process.stdin })) {
  try {
    answer(await run(JSON.parse(line)))
  } catch (error) {
    answer({ error: `${error.stack ?? error}` })
  }
}
await helia.stop()

function answer (value) {
  console.log(JSON.stringify(value))
}

async function run (request) {
  const signal = AbortSignal.timeout(LIMIT)
  if (request.add != null) {
    const cid = await files.addByteStream(createReadStream(request.add, { highWaterMark: 1 << 20 }), {
      chunker: fixedSize({ chunkSize: request.chunk }),
      rawLeaves: request.raw,
      cidVersion: request.version
    })
    await helia.routing.provide(cid, { signal })
    return { root: cid.toString() }
  }
  if (request.cat != null) {
    const cid = CID.parse(request.cat)
    const hash = createHash('sha256')
    let bytes = 0
    const { from, to } = request
    for await (const piece of files.cat(cid, { offset: from, length: to - from, signal })) {
      hash.update(piece)
      bytes += piece.length
    }
    return { sha256: hash.digest('hex'), bytes }
  }
  if (request.providers != null) {
    const peers = []
    for await (const { id } of helia.libp2p.contentRouting.findProviders(CID.parse(request.providers), { signal })) {
      peers.push(id.toString())
    }
    return { peers }
  }
  throw new Error('no such request')
}
