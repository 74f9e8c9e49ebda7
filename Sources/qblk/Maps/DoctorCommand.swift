// The command `qblk doctor`: what this machine can map, and by which way. Machine finds it out.

import ArgumentParser
import DiskTypes
import ImageChain
import ImageOperations
import SystemPackage
import LinuxIO

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Says what this machine offers for block devices.",
        discussion: """
            What the kernel has, what `map` would choose and why, and what would make it better. With an image: what \
            `map` would choose for that one. Changes nothing, but the kernel may load modules that are asked about. The \
            exit code is 0, also where there is no way to map, and 1 when the image cannot be opened.

            Example:
              qblk doctor disk.qcow2
            """)

    @OptionGroup var image: ImageOptions
    @OptionGroup var output: OutputOptions

    @Argument(help: "An image that is to be mapped.")
    var path: FilePath?

    func run() throws {
        let machine = Machine()
        let (choice, writable) = try choices(machine)
        if output.isJSON { return try Output.write(json(machine, choice, writable).text + "\n") }
        var rows = [["kernel", machine.kernel, ""]]
        rows += machine.findings.map { [$0.name, $0.state.rawValue, $0.detail] }
        var text = TextTable.text(rows)
        text += "\nmap: \(writable.way == nil ? "" : "via ")\(writable.words): \(writable.reason)\n"
        text += "map -r: \(choice.way == nil ? "" : "via ")\(choice.words): \(choice.reason)\n"
        for advice in machine.advice { text += "advice: \(advice)\n" }
        try Output.write(text)
    }

    /// The ways that `map -r` and `map` would take.
    private func choices(_ machine: Machine) throws -> (readOnly: MapChoice, writable: MapChoice) {
        guard let path else {
            return (machine.possible(machine.choice, isPlain: false), machine.possible(.writable, isPlain: false))
        }
        var options = image.open
        // Nothing is changed, so an image in use is opened, too.
        options.lock = false
        let chain: ImageChain
        do throws(ImageError) { chain = try ImageChain.open(path: path, options: options) } catch {
            throw error.named(path)
        }
        let isPlain = chain.layers.count == 1 && chain.isRaw
        let choice = try MapChoice.automatic(path: path, options: options)
        return (machine.possible(choice, isPlain: isPlain), machine.possible(.writable, isPlain: isPlain))
    }

    private func json(_ machine: Machine, _ choice: MapChoice, _ writable: MapChoice) -> JSONValue {
        let findings = machine.findings.map { finding in
            JSONValue.Member(
                key: finding.name,
                value: .members([
                    "state": .string(finding.state.rawValue), "detail": .string(finding.detail),
                ]))
        }
        return .members([
            "kernel": .string(machine.kernel),
            "offers": .object(findings),
            "map": json(writable),
            "map-read-only": json(choice),
            "advice": .strings(machine.advice),
        ])
    }

    private func json(_ choice: MapChoice) -> JSONValue {
        .members([
            "via": choice.way.map { .string($0.rawValue) }, "reason": .string(choice.reason),
            "possible": .bool(choice.way != nil),
        ])
    }
}
