// The shortest I/O that obeys a writer, for any image. Several writes can be open at once, any of them may fail,
// write-backs come in between. Where the image was right to begin with, what a guest reads is known throughout.

import DiskTypes
import FuzzKit
import QCOW2

/// Bytes of a write on their way.
struct OpenWrite {
    let granted: AllocatingWrite
    let guest: UInt64
    let length: Int
    let mark: UInt8
    /// A write-back has happened since.
    var isOld = false
}

final class WrittenDisk {
    let storage: FuzzStorage
    /// The external data file.
    let data: FuzzStorage?
    let image: QCOW2Image
    let map: QCOW2Map
    let writer: QCOW2Writer
    let hasBacking: Bool
    let wasClean: Bool
    let startLength: UInt64
    let firstTables: Tables
    var openWrites: [OpenWrite] = []
    var freed = FreedClusters()
    /// What a guest reads, by sector, as far as anybody asked.
    var model: [UInt64: UInt64] = [:]
    /// Something was refused: what is left may leak.
    var hasFailed = false
    /// A planted bug: bytes of a write that a write-back overtook may go astray.
    var goesAstray = false

    /// Nil for what would not be opened for writing.
    init?(_ bytes: [UInt8], room: UInt64) {
        let storage = FuzzStorage(bytes, room: room)
        guard let image = try? QCOW2Image(reading: storage), (try? image.requireReadable()) != nil,
            (try? image.requireWritable()) != nil
        else { return nil }
        let data: FuzzStorage? = image.header.hasExternalData ? FuzzStorage([], room: 16 << 20) : nil
        hasBacking = image.extensions.backingName != nil
        guard
            let map = try? QCOW2Map(
                image, source: storage, dataLength: data.map { _ in image.header.diskSize }, cacheLimit: 0,
                forWriting: true),
            map.size > 0,
            let writer = try? QCOW2Writer(image, map: map, storage: storage, hasBacking: hasBacking)
        else { return nil }
        if let data { try? data.truncate(to: image.header.diskSize) }
        startLength = storage.length
        let isClean = (try? ImageCheck.check(storage))?.verdict == .clean
        // Clusters past the end of the file may be counted, too: they leak once there is a file.
        try? storage.truncate(to: startLength + room)
        wasClean = isClean && (try? ImageCheck.check(storage))?.verdict == .clean
        try? storage.truncate(to: startLength)
        (self.storage, self.data, self.image, self.map, self.writer) = (storage, data, image, map, writer)
        firstTables = Tables(image.header, storage)
        storage.tables = firstTables
    }

    // MARK: reading

    static let sectorBytes: UInt64 = 512

    /// The bytes at `guest`, of one cluster at most; nil where they are damaged. Streams are not decoded: what they decode to
    /// is taken to be something that depends on each of their bytes.
    func read(_ guest: UInt64, _ count: Int) -> [UInt8]? {
        var out: [UInt8] = []
        while out.count < count {
            let at = guest + UInt64(out.count)
            switch map.lookup(GuestOffset(at), length: UInt64(count - out.count)) {
            case .needs(let table): supply(table)
            case .damaged: return nil
            case .extent(let extent):
                guard let bytes = content(extent, at) else { return nil }
                out += bytes
            }
        }
        return out
    }

    private func content(_ extent: Extent, _ at: UInt64) -> [UInt8]? {
        let count = Int(extent.length)
        switch extent.kind {
        case .zero, .zeroAllocated: return [UInt8](repeating: 0, count: count)
        case .unallocated, .unallocatedReserved:
            return (0..<count).map { hasBacking ? UInt8(truncatingIfNeeded: (at + UInt64($0)) >> 9 | 1) : 0 }
        case .data:
            let bytes = (try? (data ?? storage).read(at: extent.host, count: count)) ?? []
            return bytes + [UInt8](repeating: 0, count: count - bytes.count)
        case .compressed:
            var stream = (try? storage.read(at: extent.host, count: Int(extent.hostLength))) ?? []
            stream += [UInt8](repeating: 0, count: Int(extent.hostLength) - stream.count)
            let seed = hash(stream)
            let from = at - extent.clusterStart.bytes
            return (0..<count).map { UInt8(truncatingIfNeeded: (seed >> ((from + UInt64($0)) >> 9 & 31)) | 1) }
        }
    }

    func supply(_ table: TableRead) {
        let bytes = (try? storage.read(at: table.host, count: Int(table.length))) ?? []
        bytes.withUnsafeBytes { map.supply(table, $0) }
    }

    private func hash(_ bytes: some Sequence<UInt8>) -> UInt64 {
        bytes.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
    }

    private func sectorHashes(_ guest: UInt64, _ sectors: UInt64) -> [UInt64]? {
        guard let bytes = read(guest, Int(sectors * 512)) else { return nil }
        return (0..<Int(sectors)).map { hash(bytes[$0 * 512..<$0 * 512 + 512]) }
    }

    // MARK: the model

    /// Notes what is there before it is changed: the clusters of the range, of large ones what lies near.
    func remember(_ guest: UInt64, _ length: Int) {
        guard wasClean else { return }
        let unit = min(map.clusterSize, 1 << 16)
        var at = guest & ~(unit - 1)
        while at < guest + UInt64(length), at < map.size {
            let sectors = min(unit, map.size - at) / 512
            if model[at / 512] == nil, let hashes = sectorHashes(at, sectors) {
                for (i, hash) in hashes.enumerated() where model[at / 512 + UInt64(i)] == nil {
                    model[at / 512 + UInt64(i)] = hash
                }
            }
            at += unit
        }
    }

    func note(_ guest: UInt64, _ length: Int, _ mark: UInt8) {
        guard wasClean else { return }
        let hash = hash([UInt8](repeating: mark, count: 512))
        for sector in guest / 512..<(guest + UInt64(length)) / 512 { model[sector] = hash }
    }

    /// Discarded bytes are as before or zeros.
    func noteDiscard(_ guest: UInt64, _ length: Int) {
        guard wasClean, let now = sectorHashes(guest, UInt64(length) / 512) else { return }
        let zero = hash([UInt8](repeating: 0, count: 512))
        for (i, hash) in now.enumerated() {
            let sector = guest / 512 + UInt64(i)
            require(hash == zero || hash == model[sector], "a discarded sector \(sector) shows something else")
            model[sector] = hash
        }
    }

    func verify(_ what: String) {
        guard wasClean else { return }
        for (sector, hash) in model {
            guard let now = sectorHashes(sector * 512, 1) else {
                return require(false, "\(what): sector \(sector) is damaged")
            }
            require(now[0] == hash, "\(what): sector \(sector) has other bytes")
        }
    }
}
