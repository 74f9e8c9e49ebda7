// Buffers are handed out by hand; one given twice is another request's data in a reply.
import Glibc
import Testing

@testable import FuseExport

@Suite struct BufferTests {
    @Test func noBufferIsGivenTwice() throws {
        var pool = try ReplyPool([(4096, 3), (16384, 2), (65536, 1)])
        var taken: [Int] = []
        for _ in 0..<6 { taken.append(pool.take(100)) }
        #expect(Set(taken) == Set(0..<6), "small requests use large buffers rather than wait")
        #expect(pool.take(1) == -1)
        pool.give(taken[5])
        #expect(pool.take(65536) == 5)
        #expect(pool.take(65537) == -1)
    }

    @Test func dataIsAlignedAndApart() throws {
        let plan = [(capacity: 4096, count: 3), (capacity: 16384, count: 2)]
        let pool = try ReplyPool(plan)
        #expect(pool.count == 5)
        var end: UInt = 0
        for buffer in 0..<5 {
            let start = UInt(bitPattern: pool.data(buffer))
            #expect(start % 4096 == 0)
            #expect(UInt(bitPattern: pool.start(buffer)) == start - 16)
            #expect(start - 16 >= end, "the header lies in no data")
            end = start + (buffer < 3 ? 4096 : 16384)
        }
    }

    @Test func aLargeBufferIsKeptForLargeRequests() throws {
        var pool = try ReplyPool(ReplyPool.plan(budget: 32 << 20))
        for _ in 0..<128 { #expect(pool.take(4096) < 128) }
        #expect(pool.take(1 << 20) >= 128)
    }

    @Test(arguments: [1, 2, 4, 16], [true, false])
    func thePlanKeepsToTheBudget(workers: Int, readOnly: Bool) throws {
        let budget = FuseWorker.memoryBudget(FuseFile(size: 512, readOnly: readOnly)) / workers
        let bytes = ReplyPool.plan(budget: budget).reduce(0) { $0 + ($1.capacity + 4096) * $1.count }
        // Below a minimum nothing works; from four workers on that minimum is what each has.
        #expect(bytes <= max(budget, 8 << 20))
    }

    @Test func requestsWaitInOrder() throws {
        var requests = try RequestBuffers(count: 4, size: 8192)
        for turn in 0..<10 {
            let first = requests.take()
            let second = requests.take()
            requests.enqueue(first, length: Int32(100 + turn))
            requests.enqueue(second, length: Int32(200 + turn))
            #expect(requests.free == 2 && requests.waiting == 2)
            #expect(requests.first.buffer == first && requests.first.length == 100 + turn)
            requests.dequeue()
            #expect(requests.first.buffer == second && requests.first.length == 200 + turn)
            requests.dequeue()
            #expect(requests.free == 4 && requests.waiting == 0)
        }
    }

    @Test(arguments: [(8192, 32), ((128 << 10) + 80, 64)])
    func aWritesDataBeginsOnAPageAndIsNobodyElses(size: Int, count: Int) throws {
        let requests = try RequestBuffers(count: count, size: size)
        for buffer in 0..<count {
            let start = UInt(bitPattern: requests.bytes(buffer))
            #expect((start + 80) % 4096 == 0)
            if buffer > 0 { #expect(start >= UInt(bitPattern: requests.bytes(buffer - 1)) + UInt(size)) }
        }
        memset(requests.bytes(count - 1), 0, size)
    }

    /// See `RequestBuffers`: a page that is missing when the process is killed is a guest's I/O error.
    @Test func allMemoryIsThereFromTheBeginning() throws {
        let (size, count) = ((128 << 10) + 80, 4)
        let requests = try RequestBuffers(count: count, size: size)
        for buffer in 0..<count {
            let start = UInt(bitPattern: requests.bytes(buffer)) & ~4095
            var there = [UInt8](repeating: 0, count: size / 4096 + 1)
            #expect(mincore(UnsafeMutableRawPointer(bitPattern: start), there.count * 4096, &there) == 0)
            #expect(there.allSatisfy { $0 & 1 == 1 })
        }
    }

    @Test func aChangeKeepsItsBuffer() throws {
        var requests = try RequestBuffers(count: 2, size: 8192)
        let first = requests.take(), second = requests.take()
        requests.enqueue(first, length: 100)
        requests.enqueue(second, length: 200)
        requests.dequeueKeeping()
        #expect(requests.free == 0 && requests.waiting == 1 && requests.first.buffer == second)
        requests.dequeue()
        #expect(requests.free == 1 && requests.take() == second)
        requests.give(first)
        #expect(requests.free == 1 && requests.take() == first)
    }

    @Test(arguments: [1, 2, 4, 16])
    func theLoopDriversQueueFitsInTheRequestBuffers(workers: Int) {
        let writable = FuseFile(size: 512, readOnly: false)
        #expect(FuseWorker.requestCount(writable, workers: workers) * workers >= 128)
    }
}
