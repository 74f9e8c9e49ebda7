// Which runs merge and which blocks are zeros decides over sparse files and over what `extents` says; both are a
// matter of single bytes at borders.

import Testing

@testable import ImageOperations

struct StatusTests {
    private func run(_ start: UInt64, _ length: UInt64, offset: UInt64? = nil) -> BlockStatus {
        var status = BlockStatus(start: start, length: length)
        status.isData = offset != nil
        status.isPresent = true
        status.offset = offset
        status.file = offset == nil ? nil : 0
        return status
    }

    @Test("runs merge where they continue on the disk and in the file")
    func merging() {
        #expect(run(0, 10, offset: 100).continues(into: run(10, 5, offset: 110)))
        #expect(!run(0, 10, offset: 100).continues(into: run(10, 5, offset: 111)))
        #expect(!run(0, 10, offset: 100).continues(into: run(11, 5, offset: 111)))
        #expect(!run(0, 10, offset: 100).continues(into: run(10, 5)))
        #expect(run(0, 10).continues(into: run(10, 5)))
        var deeper = run(10, 5)
        deeper.depth = 1
        #expect(!run(0, 10).continues(into: deeper))
    }

    @Test("refcounts of every width are counted", arguments: 0...6)
    func refcounts(order: Int) {
        var bytes = [UInt8](repeating: 0, count: 64)
        #expect(Preallocation.nonZero(bytes, entries: 1000, order: order) == 0)
        bytes[63] = 0x80
        let entries = (64 * 8) >> order
        #expect(Preallocation.nonZero(bytes, entries: entries, order: order) == 1)
        #expect(
            Preallocation.nonZero(bytes, entries: entries - 1, order: order) == 0, "the last entry was not asked for")
        bytes = [UInt8](repeating: 0xff, count: 64)
        #expect(Preallocation.nonZero(bytes, entries: entries, order: order) == UInt64(entries))
    }

    @Test("one byte anywhere makes a block data", arguments: [0, 1, 511, 512, 4095])
    func zeros(place: Int) {
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.withUnsafeBytes { #expect(ZeroScan.firstData($0) == nil) }
        bytes[place] = 1
        bytes.withUnsafeBytes { #expect(ZeroScan.firstData($0) == place & ~511) }
    }

    @Test("the first different sector is found", arguments: [0, 511, 512, 1535])
    func differences(place: Int) {
        let zeros = [UInt8](repeating: 0, count: 1536)
        var other = zeros
        other[place] = 9
        zeros.withUnsafeBytes { a in
            other.withUnsafeBytes { b in
                guard let a = a.baseAddress, let b = b.baseAddress else { return }
                #expect(ZeroScan.firstDifference(a, b, 1536) == place & ~511)
                #expect(ZeroScan.firstDifference(a, a, 1536) == nil)
            }
        }
    }
}
