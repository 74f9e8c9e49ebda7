// Device-mapper, loop devices and their crashes belong into a kernel that may be broken. On the host one test starts
// the guest; inside it, this same program runs the suites that need a kernel.

import Foundation
import Testing

enum Guest {
    /// Set by tools/guest/run inside the guest.
    static let isHere = ProcessInfo.processInfo.environment["QBLK_GUEST"] != nil
    static let run = GoldenCase.folder.appendingPathComponent("../../tools/guest/run").standardizedFileURL.path

    /// Why no guest can be had; nil where it can.
    static let missing: String? = {
        guard !isHere else { return "inside the guest already" }
        guard let answer = try? sh("\(run) --available") else { return "no shell" }
        return answer.status == 0 ? nil : answer.out
    }()
}

/// All that needs a kernel of its own, one after the other: there is one device-mapper.
@Suite(.serialized, .enabled(if: Guest.isHere, "runs in the kernel guest")) struct Kernel {}

@Suite struct InGuest {
    @Test(
        .disabled(if: Guest.missing != nil, "no kernel guest: \(Guest.missing ?? "")"), .timeLimit(.minutes(20)))
    func kernelSuites() throws {
        let program = CommandLine.arguments[0]
        let result = try sh(
            "\(Guest.run) --timeout 500 --env SWIFT_BACKTRACE=enable=no -- "
                + "'\(program)' --testing-library swift-testing --filter DeviceMapperMapTests.Kernel")
        print(result.out)
        #expect(result.status == 0, "the suites in the guest failed")
    }
}
