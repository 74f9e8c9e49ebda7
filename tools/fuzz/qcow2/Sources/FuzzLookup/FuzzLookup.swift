// Lookups over any image: the map never traps, never loops, and every answer is in range, with the smallest cache
// there is.

import DiskTypes
import FuzzKit
import QCOW2

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    guard let data else { return 0 }
    let source = FuzzImage(data, count)
    guard let image = try? QCOW2Image(reading: source) else { return 0 }
    walk(image, nil, source)
    if let snapshot = (try? image.snapshots.get())?.first { walk(image, snapshot, source) }
    return 0
}

func walk(_ image: QCOW2Image, _ snapshot: Snapshot?, _ source: FuzzImage) {
    let dataLength: UInt64? = image.header.hasExternalData ? image.header.diskSize : nil
    guard
        let map = try? QCOW2Map(image, snapshot: snapshot, source: source, dataLength: dataLength, cacheLimit: 0)
    else { return }
    let checker = Checker(map: map, source: source, dataLength: dataLength ?? source.length)
    var at: UInt64 = 0
    var steps = 0
    while at < map.size, steps < 300 {
        // Whole rest, one byte, and everything between.
        let lengths = [map.size - at, 1, min(map.size - at, 4096 << UInt64(steps % 20))]
        at += checker.answer(at, lengths[steps % 3])
        steps += 1
        // Answers of one byte would take for ever: jump now and then, at last to the end.
        if steps % 7 == 0 { at = min(map.size - 1, at + map.size / 64 + map.clusterSize - 1) }
        if steps == 299 { at = map.size - 1 }
    }
}

struct Checker {
    let map: QCOW2Map
    let source: FuzzImage
    let dataLength: UInt64

    /// Asks until there is an answer; returns how many bytes it covers.
    func answer(_ guest: UInt64, _ length: UInt64) -> UInt64 {
        for _ in 0..<3 {
            switch map.lookup(GuestOffset(guest), length: length) {
            case .needs(let table):
                require(table.length >= 512 && table.length <= 2 << 20, "a table's length")
                guard let bytes = try? source.read(at: table.host, count: Int(table.length)) else { return length }
                bytes.withUnsafeBytes { map.supply(table, $0) }
            case .damaged(let damage):
                require(damage.guest.bytes == guest && damage.length > 0 && damage.length <= length, "\(damage)")
                require(!damage.description.isEmpty, "damage has words")
                return damage.length
            case .extent(let extent):
                check(extent, guest, length)
                return extent.length
            }
        }
        require(false, "asks for tables without end at \(guest)")
        return length
    }

    func check(_ extent: Extent, _ guest: UInt64, _ length: UInt64) {
        require(extent.guest.bytes == guest && extent.length > 0 && extent.length <= length, "\(extent)")
        // The last cluster may be cut off by the end of the file, but it begins before that.
        let starts = extent.kind == .compressed ? extent.host.bytes : extent.host.bytes & ~(map.clusterSize - 1)
        if extent.kind == .data || extent.kind == .compressed {
            require(starts < dataLength, "past the end: \(extent)")
        }
        if extent.kind == .data {
            require(extent.host.bytes + extent.length <= dataLength + map.clusterSize, "past the end: \(extent)")
        }
        if extent.kind == .compressed {
            require(extent.hostLength > 0 && UInt64(extent.hostLength) <= 2 * map.clusterSize, "\(extent)")
            require(extent.clusterStart.bytes & (map.clusterSize - 1) == 0, "\(extent)")
            require(guest + extent.length <= extent.clusterStart.bytes + map.clusterSize, "\(extent)")
        }
    }
}
