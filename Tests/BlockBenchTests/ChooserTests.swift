// What is asked of the disk decides what is measured: all of the range, nothing outside, the share that was ordered,
// and no block twice at a time where bytes are checked.
import Testing
@testable import BlockBench

struct ChooserTests {
    private func options(_ pattern: AccessPattern, queues: Int = 1, verify: Bool = false) -> BenchOptions {
        var options = BenchOptions()
        options.pattern = pattern
        options.queues = queues
        options.verify = verify
        return options
    }

    @Test func sequentialGoesRoundInOrder() {
        var chooser = BlockChooser(options(.read), blocks: 4, index: 0)
        #expect((0..<6).map { _ in chooser.next().offset } == [0, 4096, 8192, 12288, 0, 4096])
    }
    @Test func sequentialQueuesShareTheRange() {
        var second = BlockChooser(options(.write, queues: 2), blocks: 8, index: 1)
        #expect((0..<5).map { _ in second.next().offset / 4096 } == [4, 5, 6, 7, 4])
    }
    @Test func randomReachesEveryBlockAndNoOther() {
        var chooser = BlockChooser(options(.randread), blocks: 50, index: 0)
        #expect(Set((0..<5000).map { _ in chooser.next().offset / 4096 }) == Set(0..<50))
    }
    @Test(arguments: [0, 30, 100]) func theShareOfReadsIsAsOrdered(percent: Int) {
        var wish = options(.randrw)
        wish.readPercent = percent
        var chooser = BlockChooser(wish, blocks: 1000, index: 0)
        let reads = (0..<10_000).filter { _ in !chooser.next().isWrite }.count
        #expect(abs(reads - percent * 100) < 300)
        if percent % 100 == 0 { #expect(reads == percent * 100) }
    }
    @Test func queuesAndSeedsDiffer() {
        func first(_ seed: UInt64, _ index: Int) -> [UInt64] {
            var wish = options(.randread, queues: 2)
            wish.seed = seed
            var chooser = BlockChooser(wish, blocks: 1 << 30, index: index)
            return (0..<4).map { _ in chooser.next().offset }
        }
        #expect(first(1, 0) == first(1, 0))
        #expect(Set([first(1, 0), first(1, 1), first(2, 0), first(0, 0)]).count == 4)
    }
    @Test func aBlockInFlightIsNotChosen() {
        var chooser = BlockChooser(options(.randwrite, verify: true), blocks: 64, index: 0)
        defer { chooser.free() }
        #expect(Set((0..<64).map { _ in chooser.next().offset }).count == 64)
    }
    @Test func verifyingQueuesHaveBlocksOfTheirOwn() {
        func blocks(_ index: Int) -> Set<UInt64> {
            var chooser = BlockChooser(options(.randwrite, queues: 2, verify: true), blocks: 64, index: index)
            defer { chooser.free() }
            return Set((0..<32).map { _ in chooser.next().offset / 4096 })
        }
        #expect(blocks(0) == Set(0..<32) && blocks(1) == Set(32..<64))
    }
    @Test func theBooksKnowWhatWasWritten() {
        var chooser = BlockChooser(options(.write, verify: true), blocks: 8, index: 0)
        defer { chooser.free() }
        let first = chooser.next().offset
        #expect(chooser.nextGeneration(first) == 1)
        chooser.wrote(first, isOK: true)
        #expect(chooser.nextGeneration(first) == 2)
        guard case .generation(1) = chooser.read(first) else {
            Issue.record("block 0 has another generation")
            return
        }
        let second = chooser.next().offset
        chooser.wrote(second, isOK: false)
        guard case .nothing = chooser.read(second) else {
            Issue.record("what a failed write left is not known")
            return
        }
        #expect(chooser.written(from: 0)?.offset == first)
        #expect(chooser.written(from: 1) == nil)
    }
}
