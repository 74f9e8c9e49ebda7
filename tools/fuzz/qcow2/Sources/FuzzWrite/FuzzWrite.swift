// Any image, opened for writing and written to: nothing traps or goes on for ever, no table is ever overwritten by
// data, and an image that a check calls clean is clean afterwards and reads as it should. QBLK_CANARY plants a bug:
// bytes of a write that a write-back overtook go one sector too far.

import DiskTypes
import FuzzKit
import QCOW2

#if canImport(Glibc)
    import Glibc
#endif

private let hasPlantedBug = getenv("QBLK_CANARY") != nil

/// What is done comes out of the whole input: a changed byte that harms no table makes another plan for the same image.
private struct Plan {
    static let steps = 32
    static let bytesPerStep = 4
    let bytes: [UInt8]
    var at = 0

    init(_ image: [UInt8]) {
        var state: UInt64 = image.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
        bytes = (0..<Plan.steps * Plan.bytesPerStep).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return UInt8(truncatingIfNeeded: state >> 56)
        }
    }

    mutating func step() -> ArraySlice<UInt8>? {
        guard at + Plan.bytesPerStep <= bytes.count else { return nil }
        defer { at += Plan.bytesPerStep }
        return bytes[at..<at + Plan.bytesPerStep]
    }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    guard let data else { return 0 }
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    // Some files cannot grow by much.
    let room: UInt64 = (bytes.last ?? 0) & 7 == 7 ? 4096 : 6 << 20
    guard let disk = WrittenDisk(bytes, room: room) else { return 0 }
    var plan = Plan(bytes)
    var mark: UInt8 = 1
    while let step = plan.step() {
        take(Array(step), disk, mark)
        mark += 1
    }
    disk.goesAstray = false
    disk.close()
    return 0
}

/// One step: what, where, how much.
private func take(_ step: [UInt8], _ disk: WrittenDisk, _ mark: UInt8) {
    disk.goesAstray = hasPlantedBug && step[3] >> 5 == 5
    let (at, length) = range(step, disk.map)
    switch step[0] & 7 {
    case 0, 1, 2:
        disk.write(at, length, mark)
        // Most are over at once; some stay open.
        if step[0] & 0x30 != 0 { disk.finishAll() }
    case 3: disk.zero(at, length, step[0] & 8 == 0 ? .keep : .unmap)
    case 4: disk.zero(at, length, .discard)
    case 5: if !disk.openWrites.isEmpty { disk.finish(Int(step[1]) % disk.openWrites.count, works: step[0] & 8 == 0) }
    case 6: disk.writeBack()
    default: disk.release(discards: step[0] & 8 != 0)
    }
    while disk.openWrites.count > 4 { disk.finish(0, works: true) }
}

/// Whole sectors at the disk's begin, its end, its middle or in the second L2 table, often the same ones.
private func range(_ step: [UInt8], _ map: QCOW2Map) -> (at: UInt64, length: Int) {
    let sectors = map.size / 512
    let perCluster = map.clusterSize / 512
    let coverage = perCluster * map.clusterSize / 8
    let region: UInt64 =
        switch step[1] >> 6 {
        case 0: 0
        case 1: coverage
        case 2: sectors / 2 & ~(perCluster - 1)
        default: sectors - min(sectors, 4 * perCluster)
        }
    let within = UInt64(step[1] >> 3 & 7) * perCluster + UInt64(step[1] & 7) * max(1, perCluster / 8)
    let first = min(region + within, sectors - 1)
    var count = UInt64(step[2] & 31) + 1
    // Whole clusters, where they are not megabytes.
    if step[2] & 32 != 0, perCluster <= 128 { count = perCluster * (1 + UInt64(step[2] & 3)) }
    let start = step[2] & 64 != 0 && perCluster <= 128 ? first & ~(perCluster - 1) : first
    return (start * 512, Int(min(count, sectors - start)) * 512)
}
