// A check that cannot fail is worse than none: every way in which a block can be wrong is made here, and must be
// found, at its place, under its name.
import Testing
@testable import BlockBench

struct PatternTests {
    private let pattern = BlockPattern(seed: 5)
    private static let bytes = 4096

    /// A block as written, then changed.
    private func found(
        _ offset: UInt64 = 8192, generation: UInt32? = 3, by change: (UnsafeMutableRawPointer) -> Void = { _ in }
    ) -> PatternMismatch? {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: Self.bytes, alignment: 8)
        defer { memory.deallocate() }
        pattern.fill(memory, Self.bytes, offset: 8192, generation: 3)
        change(memory)
        return pattern.check(memory, Self.bytes, offset: offset, generation: generation)
    }

    @Test func aBlockAsWrittenIsRight() {
        #expect(found() == nil)
        #expect(found(generation: nil) == nil)
    }
    @Test(arguments: [0, 8, 16, 24, 32, 500, 511, 512, 2048, 4095]) func everyByteIsChecked(byte: Int) throws {
        let mismatch = try #require(
            found { memory in
                let old = memory.load(fromByteOffset: byte, as: UInt8.self)
                memory.storeBytes(of: old ^ 1, toByteOffset: byte, as: UInt8.self)
            })
        // Told to the word; what is wrong with a sector's head is told of the sector.
        let place = byte % 512 < 32 ? byte / 512 * 512 : byte / 8 * 8
        #expect(mismatch.offset == 8192 + UInt64(place))
    }
    @Test func zerosAreNamed() {
        let mismatch = found { $0.initializeMemory(as: UInt8.self, repeating: 0, count: Self.bytes) }
        #expect(mismatch == PatternMismatch(offset: 8192, expected: 3, found: .zeros))
    }
    @Test func foreignDataIsNamed() {
        let mismatch = found { $0.initializeMemory(as: UInt8.self, repeating: 7, count: Self.bytes) }
        #expect(mismatch?.found == .foreign)
    }
    @Test func aStaleBlockIsNamed() {
        let mismatch = found { pattern.fill($0, Self.bytes, offset: 8192, generation: 2) }
        #expect(mismatch?.found == .otherGeneration(2))
        #expect(mismatch.map { "\($0)" } == "offset 0x2000 holds write number 2 of that block, not write number 3")
    }
    @Test func aTornBlockIsFoundWhereItTears() {
        let mismatch = found(generation: nil) { pattern.fill($0 + 2048, 2048, offset: 8192 + 2048, generation: 4) }
        #expect(mismatch?.offset == 8192 + 2048 && mismatch?.found == .otherGeneration(4))
    }
    @Test func anotherPlacesBlockIsNamed() {
        #expect(found(4096)?.found == .otherPlace(8192))
    }
    @Test func anotherRunsBlockIsNamed() {
        let mismatch = found { BlockPattern(seed: 6).fill($0, Self.bytes, offset: 8192, generation: 3) }
        #expect(mismatch?.found == .otherRun(seed: 6))
    }
}
