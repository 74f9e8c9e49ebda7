// The claims that the data path rests on: nothing lost, nothing stuck, whatever the kernel.
import Glibc
import LinuxIO
import SystemPackage
import Testing

struct RingTests {
    @Test(arguments: Ring.Mode.allCases) func everyModeCompletesWhatWasSubmitted(best: Ring.Mode) throws {
        let ring = try Ring(entries: 8, best: best)
        #expect(ring.prepareNop(userData: 7))
        #expect(ring.submitAndWait(1) == 1)
        #expect(ring.collect() == [Completion(7, 0)])
    }

    @Test func preparingMoreThanTheQueueHoldsSubmitsByItself() throws {
        let ring = try Ring(entries: 4)
        for i in 0..<64 { #expect(ring.prepareNop(userData: UInt64(i))) }
        var seen: [UInt64] = []
        while seen.count < 64 {
            ring.submitAndWait(1)
            ring.drain { userData, _ in seen.append(userData) }
        }
        #expect(seen.sorted() == (0..<64).map { UInt64($0) })
    }

    @Test(arguments: Ring.Mode.allCases) func moreCompletionsThanRoomAreNotLost(best: Ring.Mode) throws {
        let ring = try Ring(entries: 4, best: best)
        var prepared = 0
        var seen = Set<UInt64>()
        // Ten times the completion queue, without draining until the kernel refuses to take more.
        while prepared < 160 {
            if ring.prepareNop(userData: UInt64(prepared)) {
                prepared += 1
            } else {
                ring.drain { d, _ in seen.insert(d) }
            }
        }
        for _ in 0..<1000 where seen.count < prepared {
            ring.submitAndWait(0)
            ring.drain { d, _ in seen.insert(d) }
        }
        #expect(seen.count == prepared)
    }

    @Test func readsAndWritesAndFlushesAFile() throws {
        let scratch = try Scratch()
        let fd = OwnedFD(taking: open(try scratch.file("a"), O_RDWR | O_CLOEXEC))
        let ring = try Ring(entries: 8)
        let memory = try AlignedBuffer(count: 8192)
        let bytes = pattern(4096)
        memory.bytes.copyBytes(from: bytes)
        func run(_ expected: Int32) {
            #expect(ring.submitAndWait(1) == 1)
            #expect(ring.collect().map(\.result) == [expected])
        }
        #expect(ring.prepareWrite(fd: fd.raw, buffer: memory.pointer, count: 4096, offset: 512, userData: 1))
        run(4096)
        #expect(ring.prepareFsync(fd: fd.raw, dataOnly: true, userData: 2))
        run(0)
        #expect(ring.prepareRead(fd: fd.raw, buffer: memory.pointer + 4096, count: 4096, offset: 512, userData: 3))
        run(4096)
        #expect(Array(memory.bytes[4096...]) == bytes)
        #expect(
            ring.prepareFallocate(
                fd: fd.raw, mode: HostFile.Allocation.reserve, offset: 0, length: 1 << 16, userData: 4))
        run(0)
        #expect(lseek(fd.raw, 0, SEEK_END) == 1 << 16)
    }

    @Test func vectorsGoOutAndComeBack() throws {
        let scratch = try Scratch()
        let fd = OwnedFD(taking: open(try scratch.file("a"), O_RDWR | O_CLOEXEC))
        let ring = try Ring(entries: 8)
        let memory = try AlignedBuffer(count: 4096)
        memory.bytes.copyBytes(from: pattern(2048))
        let iovecs = [
            iovec(iov_base: memory.pointer + 1024, iov_len: 1024), iovec(iov_base: memory.pointer, iov_len: 1024),
        ]
        try iovecs.withUnsafeBufferPointer { vector in
            let base = try #require(vector.baseAddress)
            #expect(
                ring.prepareWritev(
                    fd: fd.raw, iovecs: base, count: 2, offset: 0, userData: 1, flags: Ring.Flag.link))
            #expect(ring.prepareReadv(fd: fd.raw, iovecs: base, count: 2, offset: 0, userData: 2))
            #expect(ring.submitAndWait(2) == 2)
        }
        #expect(ring.collect() == [Completion(1, 2048), Completion(2, 2048)])
        #expect(Array(memory.bytes[..<2048]) == pattern(2048))
    }

    @Test func registeredFilesAndBuffersGiveTheSameBytes() throws {
        let scratch = try Scratch()
        let fd = OwnedFD(taking: open(try scratch.file("a"), O_RDWR | O_CLOEXEC))
        let ring = try Ring(entries: 8)
        let memory = try AlignedBuffer(count: 8192)
        memory.bytes.copyBytes(from: pattern(4096))
        try ring.registerFiles([-1, fd.raw])
        try ring.registerBuffers([memory.bytes])
        let flags = Ring.Flag.fixedFile
        #expect(
            ring.prepareWriteFixed(
                fd: 1, buffer: memory.pointer, count: 4096, offset: 0, index: 0, userData: 1, flags: flags))
        ring.submitAndWait(1)
        #expect(ring.collect() == [Completion(1, 4096)])
        #expect(
            ring.prepareReadFixed(
                fd: 1, buffer: memory.pointer + 4096, count: 4096, offset: 0, index: 0, userData: 2, flags: flags))
        ring.submitAndWait(1)
        #expect(ring.collect() == [Completion(2, 4096)])
        #expect(Array(memory.bytes[4096...]) == pattern(4096))
    }

    @Test func aPollWakesAndACancelEndsIt() throws {
        let ring = try Ring(entries: 8)
        var ends: [Int32] = [-1, -1]
        #expect(pipe(&ends) == 0)
        let reader = OwnedFD(taking: ends[0]), writer = OwnedFD(taking: ends[1])
        #expect(ring.preparePollAdd(fd: reader.raw, events: UInt32(POLLIN), userData: 1))
        #expect(ring.submitAndWait(0) == 1)
        #expect(ring.drain { _, _ in } == 0)
        #expect(write(writer.raw, "x", 1) == 1)
        ring.submitAndWait(1)
        let woken = ring.collect()
        #expect(woken.count == 1 && woken[0].userData == 1 && woken[0].result & pollIn != 0)

        var byte: UInt8 = 0
        #expect(read(reader.raw, &byte, 1) == 1)
        #expect(ring.preparePollAdd(fd: reader.raw, events: UInt32(POLLIN), userData: 2))
        #expect(ring.prepareCancel(userData: 2, userData: 3))
        var results: [UInt64: Int32] = [:]
        while results.count < 2 {
            ring.submitAndWait(1)
            ring.drain { d, result in results[d] = result }
        }
        #expect(results == [2: -ECANCELED, 3: 0])
    }

    @Test func aTimeoutEndsASleep() throws {
        let ring = try Ring(entries: 8)
        var time = timespec(tv_sec: 0, tv_nsec: 5_000_000)
        #expect(ring.prepareTimeout(&time, userData: 9))
        ring.submitAndWait(1)
        #expect(ring.collect() == [Completion(9, -ETIME)])
    }

    @Test func theCurrentPositionMovesAlong() throws {
        let scratch = try Scratch()
        let fd = OwnedFD(taking: open(try scratch.file("a", [1, 2, 3, 4]), O_RDONLY | O_CLOEXEC))
        let ring = try Ring(entries: 8)
        let memory = try AlignedBuffer(count: 4)
        for i in 0..<2 {
            #expect(
                ring.prepareRead(
                    fd: fd.raw, buffer: memory.pointer + i * 2, count: 2, offset: Ring.currentPosition, userData: 1))
            ring.submitAndWait(1)
            #expect(ring.collect() == [Completion(1, 2)])
        }
        #expect(Array(memory.bytes) == [1, 2, 3, 4])
    }

    @Test func aFailedRequestReportsItsErrno() throws {
        let ring = try Ring(entries: 8)
        let memory = try AlignedBuffer(count: 4)
        #expect(ring.prepareRead(fd: -1, buffer: memory.pointer, count: 4, offset: 0, userData: 1))
        ring.submitAndWait(1)
        #expect(ring.collect() == [Completion(1, -EBADF)])
    }
}

private struct Completion: Equatable {
    let userData: UInt64
    let result: Int32
    init(_ userData: UInt64, _ result: Int32) {
        self.userData = userData
        self.result = result
    }
}

extension Ring {
    fileprivate func collect() -> [Completion] {
        var all: [Completion] = []
        drain { userData, result in all.append(Completion(userData, result)) }
        return all
    }
}

private let pollIn = Int32(POLLIN)
