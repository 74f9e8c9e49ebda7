// A full disk, a quota and a limit of the file's size are different things to a guest: the errno with which the system
// refused a call reaches the request that met it, and every later one that fails for the same reason.
import BlockEngine
import DiskTypes
import FailCalls
import Glibc
import ImageChain
import TestKit
import Testing

// In the suite of the tests that plan failing calls too: one plan at a time.
extension AllocationFaultTests {
    static let numbers: [Int32] = [ENOSPC, EDQUOT, EFBIG, EROFS, EIO]

    @Test(
        "A call of the helper that fails gives its own errno to the requests that meet it",
        .enabled(if: qblk_fails_calls() != 0, "needs a build without sanitizer"), arguments: numbers)
    func keepsTheNumber(number: Int32) throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 start.img 8M")
        var kinds: Set<Int> = []
        for failing in 1...100 {
            try images.run("cp start.img a.img")
            let chain = try images.open("a.img", direct: false, writable: true)
            var status = stat()
            try #require(stat(images.path("a.img"), &status) == 0)
            qblk_fail_call(UInt64(status.st_dev), UInt64(status.st_ino), failing, number)
            defer { qblk_fail_none() }
            var errors: [Int32] = []
            do {
                let harness = try EngineHarness(chain)
                for at in [0, 1 << 20] { errors += [write(harness, at), flush(harness)] }
                let kind = Int(qblk_failed_kind())
                if kind == QBLK_CALL_NONE {
                    #expect(errors.allSatisfy { $0 == 0 })
                    break
                }
                if errors.contains(number) { kinds.insert(kind) }
                if kind == QBLK_CALL_SYNC {
                    errors += [flush(harness), write(harness, 2 << 20)].map { $0 == 0 ? -1 : $0 }
                }
                #expect(errors.allSatisfy { $0 == 0 || $0 == number }, "call \(failing) of kind \(kind): \(errors)")
            }
            do { try chain.closeAndUnlock() } catch { #expect(error.number == number, "\(error)") }
        }
        // Data that a plain write does not take goes by the ring, and a file that may not grow by a large step grows by a
        // small one: those failures reach no request.
        let growsBySmallSteps = [ENOSPC, EDQUOT, EFBIG].contains(number)
        #expect(kinds == Set([QBLK_CALL_WRITE, QBLK_CALL_SYNC] + (growsBySmallSteps ? [] : [QBLK_CALL_RESIZE])))
    }

    private func write(_ harness: EngineHarness, _ at: Int) -> Int32 {
        let count = 64 << 10
        let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 5, count)
        var request = BlockRequest(.write, slot: 0, guest: GuestOffset(UInt64(at)), length: UInt64(count))
        request.iovecs = harness.kept([iovec(iov_base: memory, iov_len: count)], slot: 0)
        request.iovecCount = 1
        harness.engine.submit(request)
        return harness.wait()?.error ?? -1
    }

    private func flush(_ harness: EngineHarness) -> Int32 {
        harness.engine.submit(BlockRequest(.flush, slot: 0))
        return harness.wait()?.error ?? -1
    }

    @Test("A data file that the system does not open for writing says why by its number")
    func keepsTheNumberOfAFileOfTheChain() throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 -o data_file=data a.img 64k && rm data && cp /bin/sleep data")
        // A program that runs cannot be written: ETXTBSY.
        try images.run("chmod +x data; ./data 60 >/dev/null 2>&1 & echo $! >pid; sleep 0.2")
        defer { try? images.run("kill $(cat pid)") }
        do {
            _ = try images.open("a.img", direct: false, writable: true)
            Issue.record("it was opened")
        } catch let error as ImageError {
            #expect(error.kind == .reference)
            #expect(error.number == ETXTBSY, "\(error)")
        }
    }
}
